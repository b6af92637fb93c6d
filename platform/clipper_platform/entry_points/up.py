"""`clip up`: the platform until it is stopped."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any

from clipper_platform.errors import ClipperError
from clipper_platform.main import run
from clipper_platform.settings import Settings

__all__ = ["up"]


def up(flags: Mapping[str, Any], on_listening: Callable[[dict[str, str]], None]) -> dict[str, Any]:
    """Run the platform until SIGINT or SIGTERM: {"exit_code"}, or {"error": {"code", "message", …}} where it can't.

    `flags` are settings by name; None was not given. `on_listening` is called once, with the url, the store, the
    backend and the home.
    """
    try:
        settings = Settings.load(**flags)
        facts = {"store": settings.store_url, "backend": settings.backend, "home": str(settings.home)}
        return {"exit_code": run(settings, on_listening=lambda *, url: on_listening({"url": url, **facts}))}
    except ValueError as error:
        return {"error": {"code": "invalid_settings", "message": str(error)}}
    except (ClipperError, OSError, BaseExceptionGroup) as error:
        return {"error": _described(error)}


def _described(error: BaseException) -> dict[str, Any]:
    """An error of the platform or of the operating system, such as a full disk. Raises it again where it is a
    defect."""
    first = error
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, ClipperError):
        return {**first.details, "code": first.code, "message": str(first)}
    if isinstance(first, OSError):
        path = first.filename2 or first.filename
        where = f": {path}" if path else ""
        described = {"code": "unavailable", "message": f"the platform cannot go on: {first.strerror or first}{where}"}
        if first.errno in (errno.ENOSPC, errno.EDQUOT):
            described["hint"] = "Free some space, or give a home on another disk: clip up --home DIR"
        return described
    raise error
