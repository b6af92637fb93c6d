"""API keys: created here, kept as SHA-256 hashes, looked up in memory on every request.

A key is `clip_` and 32 random bytes in URL-safe base64. With 256 random bits a plain hash is enough: nobody can guess
the key, so a slow hash would protect nothing. Keys that another platform creates or revokes are read again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import Final

import msgspec

from clipper.contract.constants import SCOPES, Scope
from clipper_platform.clock import Clock
from clipper_platform.control.store_watch import StoreWatch
from clipper_platform.errors import Conflict, InvalidRequest, NotFound, StoreUnavailable
from clipper_platform.store.base import Changes, Key, MetadataStore

__all__ = ["Keyring", "grants"]

logger = logging.getLogger(__name__)

PREFIX: Final = "clip_"
RANDOM_BYTES: Final = 32
MAX_KEYS: Final = 1000  # live ones
MAX_NAME_LENGTH: Final = 100

_IMPLIED: Final[dict[Scope, frozenset[Scope]]] = {
    "invoke": frozenset({"invoke"}),
    "deploy": frozenset({"invoke", "deploy"}),
    "admin": frozenset({"invoke", "deploy", "admin"}),
}


def grants(key: Key, scope: Scope) -> bool:
    """Whether the key may do what asks for `scope`: admin includes deploy, deploy includes invoke."""
    return any(scope in _IMPLIED[held] for held in key.scopes)


def _digest(secret: str) -> str:
    # Headers are latin-1 text and may hold anything: no character may make this raise.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class Keyring:
    """The live keys by hash, and all keys by id. `watch` reports what other platforms change."""

    def __init__(self, store: MetadataStore, clock: Clock, watch: StoreWatch) -> None:
        self._store = store
        self._clock = clock
        self._live: dict[str, Key] = {}
        self._keys: dict[str, Key] = {}
        self._lock = asyncio.Lock()  # a key that is being stored must not be missing in what is read meanwhile
        self._stale = False  # whether the stored keys may differ
        watch.on_poll(self._polled)

    async def load(self) -> None:
        """Read all keys. Raises StoreUnavailable."""
        async with self._lock:
            await self._read()

    async def _read(self) -> None:
        self._stale = True
        keys = await self._store.list_keys()
        self._keys = {key.id: key for key in keys}
        self._live = {key.hash: key for key in keys if key.revoked_at is None}
        self._stale = False

    async def _polled(self, changes: Changes) -> None:
        if changes.keys or self._stale:
            try:
                await self.load()
            except StoreUnavailable as error:
                logger.warning("keys that changed could not be read yet: %s", error)

    def find(self, secret: str) -> Key | None:
        """The live key with this secret. About a microsecond; sees a revocation at once, one by another platform within
        a second."""
        return self._live.get(_digest(secret))

    def list(self) -> list[Key]:
        """Oldest first, revoked ones included."""
        return sorted(self._keys.values(), key=lambda key: (key.created_at, key.id))

    async def create(self, name: str, scopes: tuple[str, ...]) -> tuple[Key, str]:
        """A new key and its secret, which is not kept. Raises InvalidRequest, StoreUnavailable."""
        checked = _check_scopes(scopes)
        name = name.strip()
        if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
            raise InvalidRequest(f"name must be 1 to {MAX_NAME_LENGTH} printable characters", key="name")
        if len(self._live) >= MAX_KEYS:
            raise Conflict(f"there are {MAX_KEYS} keys already; revoke one first")
        secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
        return await self._add(name, secret, checked), secret

    async def revoke(self, key_id: str) -> Key:
        """Refuse the key from now on. Raises NotFound, Conflict for the last admin key or if another platform changed
        the key at the same time, StoreUnavailable."""
        async with self._lock:
            await self._read()  # the last admin key is known to the store alone
            key = self._keys.get(key_id)
            if key is None:
                raise NotFound(f"there is no key {key_id!r}")
            if key.revoked_at is not None:
                return key
            if not any(grants(other, "admin") for other in self._live.values() if other.id != key_id):
                raise Conflict("this is the last key with scope admin: create another one before you revoke it")
            return await self._put(msgspec.structs.replace(key, revoked_at=self._clock.time()))

    async def ensure_admin(self, path: Path) -> str | None:
        """Make sure that `path` holds the secret of a live admin key. Returns what was done, as a sentence, or None.

        A file whose key the store does not know (another store, or one that was lost) is registered again. A file
        that is lost, or whose key was revoked, is replaced by a new key.
        """
        secret = _read_secret(path)
        if secret is not None:
            found = self.find(secret)
            if found is not None and grants(found, "admin"):
                return None
            if all(key.hash != _digest(secret) for key in self._keys.values()):
                await self._add("admin", secret, ("admin",))
                return f"registered the admin key of {path}, which the store did not know"
        had_admin = any(grants(key, "admin") for key in self._live.values())
        fresh = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
        # The file first: a crash between the two leaves a file whose key is registered at the next start.
        _write_secret(path, fresh)
        await self._add("admin", fresh, ("admin",))
        if had_admin:
            return f"created a new admin key, as {path} was missing or held none; the earlier one is still valid"
        return f"created the admin key; it is in {path}"

    async def _add(self, name: str, secret: str, scopes: tuple[Scope, ...]) -> Key:
        key = Key(
            id="key_" + secrets.token_hex(8),
            name=name,
            hash=_digest(secret),
            scopes=scopes,
            created_at=self._clock.time(),
        )
        async with self._lock:
            return await self._put(key)

    async def _put(self, key: Key) -> Key:
        try:
            stored = await self._store.put_key(key)
        except (Conflict, StoreUnavailable):
            self._stale = True
            raise
        self._keys[stored.id] = stored
        if stored.revoked_at is None:
            self._live[stored.hash] = stored
        else:
            self._live.pop(stored.hash, None)
        return stored


def _check_scopes(scopes: tuple[str, ...]) -> tuple[Scope, ...]:
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        reason = f"scope {unknown[0]!r} is not known" if unknown else "scopes is empty"
        raise InvalidRequest(f"{reason}: use one or more of {', '.join(SCOPES)}", key="scopes")
    return tuple(scope for scope in SCOPES if scope in scopes)


def _read_secret(path: Path) -> str | None:
    """The key in the file, or None if there is none. Tightens the file's mode if others may read it."""
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None
    if mode & 0o077:
        logger.warning("the file of the admin key was readable by others; its mode is 0600 now: %s", path)
        path.chmod(0o600)
    return text if text.startswith(PREFIX) and len(text) >= len(PREFIX) + RANDOM_BYTES and text.isascii() else None


def _write_secret(path: Path, secret: str) -> None:
    """Atomic: the file is whole or absent, and never readable by others, not even for a moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
