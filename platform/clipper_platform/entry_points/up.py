"""`clip up`: the platform until it is stopped."""

from __future__ import annotations

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
    except ClipperError as error:
        return {"error": {**error.details, "code": error.code, "message": str(error)}}
    except ValueError as error:
        return {"error": {"code": "invalid_settings", "message": str(error)}}
