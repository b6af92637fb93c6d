"""Where the platform is and which key opens it.

`CLIP_URL` and `CLIP_API_KEY`, else `platform.json` and `api_key` in `CLIP_HOME` (`~/.clip`). The key of this machine's
own platform is never sent to another address.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from clipper.contract.constants import DEFAULT_HOME, DEFAULT_HOST, DEFAULT_PORT, KEY_FILE, PLATFORM_FILE
from clipper.errors import PlatformUnreachable

__all__ = ["Location", "find_platform", "home_directory"]


@dataclass(frozen=True, slots=True)
class Location:
    """`url` without a trailing slash. The key stays out of the repr."""

    url: str
    api_key: str | None = field(default=None, repr=False)

    @property
    def loopback(self) -> bool:
        host = urlsplit(self.url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")


def home_directory(environ: Mapping[str, str] | None = None) -> Path:
    """`CLIP_HOME`, else `~/.clip`; `/.clip` for a user without a home directory, as containers have them."""
    environ = os.environ if environ is None else environ
    chosen = Path(environ.get("CLIP_HOME") or DEFAULT_HOME)
    try:
        return chosen.expanduser()
    except RuntimeError:
        return Path("/", *chosen.parts[1:])


def find_platform(
    url: str | None = None, api_key: str | None = None, *, environ: Mapping[str, str] | None = None
) -> Location:
    """The platform to talk to; arguments win over the environment, the environment over the home directory.

    Raises PlatformUnreachable when there is no address, ValueError for an address that is not HTTP.
    """
    environ = os.environ if environ is None else environ
    home = home_directory(environ)
    url = url or environ.get("CLIP_URL") or None
    api_key = api_key or environ.get("CLIP_API_KEY") or None
    running = _running_url(home)
    if url is None and running is None:
        raise PlatformUnreachable(
            f"no platform found: CLIP_URL is not set and {home / PLATFORM_FILE} does not exist; is `clip up` running?"
        )
    url = _checked(url or running or "")
    # The file's key belongs to the platform of this home: another address must not learn it.
    if api_key is None and running is not None and url == running.rstrip("/"):
        api_key = _read_key(home)
    return Location(url, api_key)


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not the platform's address: write it as in http://{DEFAULT_HOST}:{DEFAULT_PORT}")
    return url.rstrip("/")


def _running_url(home: Path) -> str | None:
    try:
        table = json.loads((home / PLATFORM_FILE).read_text(encoding="utf-8"))
        url = table["url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no platform runs, or it is writing the file
    return url if isinstance(url, str) else None


def _read_key(home: Path) -> str | None:
    try:
        return (home / KEY_FILE).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
