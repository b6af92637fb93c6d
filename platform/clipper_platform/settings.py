"""The platform's settings: from flags, else the environment (`CLIP_PORT`, …), else `config.toml` in the home directory,
else the defaults. Parsed once, here; a refusal names the key and what is allowed."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from clipper.contract.constants import DEFAULT_HOME, DEFAULT_HOST, DEFAULT_PORT
from clipper.contract.spec import nearest
from clipper_platform.errors import InvalidSpec
from clipper_platform.types import IdRange

__all__ = ["BACKLOG", "Settings"]

MiB = 1024 * 1024

# Connections that the kernel accepts before the platform does: those of clients wait here while the gateway loads.
BACKLOG = 2048

# What systemd has for users that exist while something runs as them, so that no distribution gives these numbers to
# people or services. Container hosts that map 65,536 numbers have them too.
DEFAULT_UIDS = IdRange(61184, 65519)
MIN_UID, MAX_UID = 1000, 2**31 - 2  # below are the system's users
MIN_UIDS = 16  # half of them are users, half are groups of bundles

STORE_SCHEMES = ("sqlite:///", "redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes in bytes, times in seconds."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT  # 0: any free one
    home: Path = Path(DEFAULT_HOME)
    backend: str = "process"
    store: str = ""  # sqlite:///PATH or redis://…; empty: clipper.db in the home directory
    environments: Path | None = None  # where virtual environments are kept; None: in the home directory
    environment_grace_s: float = (
        86_400.0  # how long an environment stays after its last use, for a deploy that needs it
    )
    environments_bytes: int = 20 * 1024 * MiB  # unused ones go at once, the least recently used first, beyond this
    cors_origins: tuple[str, ...] = ()
    log_level: str = "info"
    log_format: str = "text"
    fast_path: bool = True  # answer POST /fn without the ASGI cycle
    max_body_bytes: int = 32 * MiB
    max_bundle_bytes: int = 256 * MiB
    max_queued_total: int = 20_000
    cache_bytes: int = 64 * MiB
    materialized_bytes: int = 10 * 1024 * MiB  # of answers computed beforehand, on the disk
    isolation: str = "auto"  # of replicas: the best that the machine has, or mounts, landlock, none
    isolation_uids: str = "auto"  # users of projects where root runs the platform: FIRST..LAST; auto: where needed; off
    warm_pool_size: int = 0  # zygotes per environment, where the environment sets no number
    body_timeout_s: float = 60.0  # a client that takes longer to send its body gets a 408
    shutdown_timeout_s: float = 30.0

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def store_url(self) -> str:
        return self.store or f"sqlite:///{quote(str(self.home / 'clipper.db'))}"

    @property
    def environments_path(self) -> Path:
        return self.environments or self.home / "environments"

    @property
    def project_ids(self) -> IdRange | None:
        """None: projects have no users of their own."""
        if self.isolation_uids in ("auto", "off"):
            return DEFAULT_UIDS if self.isolation_uids == "auto" else None
        first, _, last = self.isolation_uids.partition("..")
        return IdRange(int(first), int(last))

    @classmethod
    def load(cls, *, environ: Mapping[str, str] | None = None, **flags: Any) -> Self:
        """Settings from all sources; a flag that is None was not given. Raises InvalidSpec."""
        environ = os.environ if environ is None else environ
        given = {k: v for k, v in flags.items() if v is not None and v != ()}
        known = {f.name for f in fields(cls)}
        for key in given:
            if key not in known:
                raise InvalidSpec(f"unknown setting {key!r}; did you mean {nearest(key, known)!r}?", key=key)
        home = _home(Path(given.get("home") or environ.get("CLIP_HOME") or DEFAULT_HOME))
        values: dict[str, Any] = {"home": home}
        values |= _from_file(home / "config.toml", known)
        values |= {k: v for k in known if k != "home" and (v := environ.get(f"CLIP_{k.upper()}"))}
        values |= {k: v for k, v in given.items() if k != "home"}
        settings = cls(**{k: _coerce(k, v) for k, v in values.items()})
        settings._check()
        return settings

    def _check(self) -> None:
        choices = {
            "backend": ("process",),
            "isolation": ("auto", "mounts", "landlock", "none"),
            "log_level": ("debug", "info", "warning", "error"),
            "log_format": ("text", "json"),
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise InvalidSpec(
                    f"{key} = {getattr(self, key)!r} is not allowed: one of {', '.join(allowed)}", key=key
                )
        self._check_uids()
        if not 0 <= self.port <= 65535:
            raise InvalidSpec(f"port = {self.port} is not allowed: 0 to 65535", key="port")
        if self.store and not self.store.startswith(STORE_SCHEMES):
            raise InvalidSpec(
                # Not the URL itself: it may hold a password.
                f"store = '{self.store.partition(':')[0][:20]}…' is not allowed: sqlite:///PATH, redis://HOST:PORT/DB "
                f"or another of {', '.join(STORE_SCHEMES)}",
                key="store",
            )
        for key in ("max_body_bytes", "max_bundle_bytes", "max_queued_total"):
            if getattr(self, key) < 1:
                raise InvalidSpec(f"{key} = {getattr(self, key)} is not allowed: at least 1", key=key)
        for key in ("environment_grace_s", "environments_bytes", "materialized_bytes"):
            if not 0 <= getattr(self, key) < math.inf:
                raise InvalidSpec(f"{key} = {getattr(self, key)} is not allowed: at least 0", key=key)
        if not 0 <= self.warm_pool_size <= 16:
            raise InvalidSpec(f"warm_pool_size = {self.warm_pool_size} is not allowed: 0 to 16", key="warm_pool_size")
        if self.max_body_bytes > 64 * MiB:
            raise InvalidSpec(
                "max_body_bytes is at most 64 MiB: a frame to a replica holds a body", key="max_body_bytes"
            )

    def _check_uids(self) -> None:
        if self.isolation_uids in ("auto", "off"):
            return
        found = re.fullmatch(r"(\d{1,10})\.\.(\d{1,10})", self.isolation_uids)
        first, last = map(int, found.groups()) if found else (0, 0)
        if not (first >= MIN_UID and first + MIN_UIDS <= last + 1 and last <= MAX_UID):
            raise InvalidSpec(
                f"isolation_uids = {self.isolation_uids!r} is not allowed: auto, off, or FIRST..LAST with at least "
                f"{MIN_UIDS} numbers from {MIN_UID} to {MAX_UID}, such as {DEFAULT_UIDS}",
                key="isolation_uids",
            )


def _home(chosen: Path) -> Path:
    try:
        return chosen.expanduser().absolute()
    except RuntimeError as error:
        raise InvalidSpec(
            f"home = {str(chosen)!r}: this user has no home directory; set CLIP_HOME, or give --home DIR", key="home"
        ) from error


def _from_file(path: Path, known: set[str]) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSpec(f"{path} cannot be read: {error}") from error
    for key in table:
        if key not in known or key == "home":
            raise InvalidSpec(f"{path}: unknown key {key!r}; did you mean {nearest(key, known)!r}?", key=key)
    return table


def _coerce(key: str, value: Any) -> Any:
    kind = {f.name: f.type for f in fields(Settings)}[key]
    try:
        match kind:
            case "int":
                if isinstance(value, (bool, float)):
                    raise ValueError
                return int(value)
            case "float":
                return float(value)
            case "bool":
                return (
                    value if isinstance(value, bool) else {"true": True, "1": True, "false": False, "0": False}[value]
                )
            case "Path" | "Path | None":
                return Path(value).expanduser().absolute()
            case "tuple[str, ...]":
                return tuple(value.split(",")) if isinstance(value, str) else tuple(map(str, value))
            case _:
                if not isinstance(value, str):
                    raise ValueError
                return value
    except (ValueError, TypeError, KeyError):
        raise InvalidSpec(f"{key} = {value!r} is not allowed: it must be of type {kind}", key=key) from None
