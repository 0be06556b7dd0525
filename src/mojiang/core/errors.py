"""Every error Mojiang raises on purpose.

    MojiangError            E000  exit 1
    ├── BadUsage            E100  exit 2    a flag, a config key or a file of settings is wrong
    ├── BadInput            E200  exit 1    data or a model that cannot be used as it is
    ├── NotFound            E300  exit 2    a REF, a capability or a file that is not there
    ├── Corrupted           E400  exit 1    stored bytes differ from their checksum
    ├── Unavailable         E500  exit 1    a package, port, disk or service that is missing or full
    ├── GateRefused         E600  exit 3    the evidence does not meet the policy
    ├── Interrupted         E700  exit 130  stopped by the user; the work so far is kept
    └── RunFailed           E800  exit 1    a recipe failed in a way it did not foresee

A message says what happened, with the value; `hint` says what to do. Each code has a section in
docs/concepts/errors.md.
"""

from __future__ import annotations


class MojiangError(Exception):
    """Root of the tree. `code` is stable across releases; `exit_code` is what the command returns."""

    code = "E000"
    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[MojiangError], tuple[str, str]]:
        # Worker processes send errors back by pickling; the default would lose the hint.
        return type(self), (self.message, self.hint)


class BadUsage(MojiangError, ValueError):
    """A flag, a config key or a settings file is wrong."""

    code = "E100"
    exit_code = 2


class BadInput(MojiangError, ValueError):
    """Data or a model that cannot be used as it is."""

    code = "E200"


class NotFound(MojiangError, LookupError):
    """A REF, a capability or a file that is not there."""

    code = "E300"
    exit_code = 2


class Corrupted(MojiangError):
    """Stored bytes differ from their checksum."""

    code = "E400"


class Unavailable(MojiangError, OSError):
    """A package, port, disk or service that is missing or full."""

    code = "E500"


class GateRefused(MojiangError):
    """The evidence does not meet the policy."""

    code = "E600"
    exit_code = 3


class Interrupted(MojiangError):
    """Stopped by the user; the work so far is kept and the same command continues it."""

    code = "E700"
    exit_code = 130


class RunFailed(MojiangError, RuntimeError):
    """A recipe failed in a way it did not foresee."""

    code = "E800"
