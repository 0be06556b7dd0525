"""Every error leaves in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mojiang.core.errors import BadInput, MojiangError, Unavailable

logger = logging.getLogger(__name__)

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer other than 200. `param` names the field of the request that is to blame."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON object to send."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The HTTP response to send."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


def overloaded(reason: str, retry_after: int = 1) -> ApiError:
    """429: there is no room in the queue."""
    return ApiError(429, reason, code="queue_full", headers={"retry-after": str(retry_after)})


def draining() -> ApiError:
    """503: the server is going away."""
    headers = {"retry-after": "5", "connection": "close"}
    return ApiError(503, "The server is shutting down.", code="shutting_down", headers=headers)


def from_mojiang(error: MojiangError) -> ApiError:
    """The HTTP face of an error of Mojiang."""
    message = f"{error.message}. {error.hint[:1].upper()}{error.hint[1:]}." if error.hint else error.message
    status = 400 if isinstance(error, BadInput) else 503 if isinstance(error, Unavailable) else 500
    return ApiError(status, message, code=error.code)


def install(app: FastAPI) -> None:
    """Give `app` handlers for all that can go wrong, unknown paths and methods included."""

    @app.exception_handler(ApiError)
    async def _api(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(MojiangError)
    async def _mojiang(_: Request, error: MojiangError) -> JSONResponse:
        return from_mojiang(error).response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{error.detail}: {request.method} {request.url.path}"
        code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
        return ApiError(error.status_code, message, code=code, headers=dict(error.headers or {})).response()
