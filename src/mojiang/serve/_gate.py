"""What happens to every request before and after its endpoint: id, key, count."""

from __future__ import annotations

import hmac
import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mojiang.serve._errors import ApiError
from mojiang.serve._metrics import Metrics

logger = logging.getLogger(__name__)

_OPEN = ("/healthz", "/readyz")
_KNOWN = re.compile(r"/(v1/(models|chat/completions|completions)|healthz|readyz|metrics)")


class Gate:
    """ASGI middleware. All paths but the health probes need the API key, if there is one, /metrics too."""

    def __init__(self, app: ASGIApp, metrics: Metrics, api_key: str | None) -> None:
        self.app, self.metrics, self.api_key = app, metrics, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if re.fullmatch(r"[\w.:-]{1,128}", given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        known = _KNOWN.match(scope["path"])
        path, status = known[0] if known else "other", 499  # nginx's number for a client that went away

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            if self._refused(scope["path"], headers):
                error = ApiError(401, "Missing or wrong API key.", code="invalid_api_key")
                error.headers["www-authenticate"] = "Bearer"
                await error.response()(scope, receive, send_with_id)
            else:
                await self.app(scope, receive, send_with_id)
        except Exception:
            if (
                status == 499
            ):  # nothing was sent yet; the trace goes to the log, a client learns nothing about our insides
                logger.exception("%s %s failed", scope["method"], scope["path"])
                error = ApiError(500, "The server failed to answer this request.", code="internal_error")
                await error.response()(scope, receive, send_with_id)
                return
            raise
        finally:
            self.metrics.http.labels(path, str(status)).inc()

    def _refused(self, path: str, headers: Headers) -> bool:
        if self.api_key is None or path in _OPEN:
            return False
        given = headers.get("authorization", "").removeprefix("Bearer ")
        # In constant time: how long a comparison takes must not tell how much of a guess is right.
        return not hmac.compare_digest(given.encode(), self.api_key.encode())
