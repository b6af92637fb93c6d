"""What applications learn, in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from clipper_platform.store import records
from clipper_platform.store import redis_application_scripts as scripts
from clipper_platform.store.applications import (
    PAIRS_KEPT,
    AwaitedChunk,
    ContextState,
    Learned,
    Learning,
    Pair,
    StateWrite,
    last_to_forget,
)
from clipper_platform.store.redis_connection import RedisConnection
from clipper_platform.store.redis_keys import RedisKeys

__all__ = ["RedisApplicationData"]


class RedisApplicationData:
    """Implements `ApplicationData`. A state is stored as its revision, a space and JSON."""

    def __init__(self, server: RedisConnection, keys: RedisKeys) -> None:
        self._script = server.script
        self._keys = keys

    async def _needed(self, script: str, keys: Sequence[str], application: str, *values: str | bytes | int) -> Any:
        """The answer of a script that needs the application. Raises NotFound."""
        answer = await self._script(script, [self._keys.applications, *keys], application, *values)
        if answer is None:
            raise records.no_application(application)
        return answer

    async def states(self, application: str, *, after: int = 0) -> list[ContextState]:
        keys = self._keys.application(application)
        flat = await self._script(scripts.STATES, [keys.states, keys.state_seqs], after)
        found = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        return [_state(records.text(context), record, int(float(seq))) for context, record, seq in found]

    async def learn(self, application: str, learning: Learning) -> Learned:
        keys = self._keys.application(application)
        parts = (
            [str(pair.query_id) for pair in learning.pairs],
            [msgspec.json.encode((pair.at, msgspec.Raw(pair.record))).decode() for pair in learning.pairs],
            [write.context for write in learning.states],
            [str(write.revision) if write.revision else "" for write in learning.states],
            ["" if write.state is None else _stored(write) for write in learning.states],
            _flat(learning.counts),
        )
        names = [keys.states, keys.state_seqs, keys.pairs, keys.joined, keys.counts, keys.last]
        json = [msgspec.json.encode(part) for part in parts]
        duplicates, conflicts = await self._needed(scripts.LEARN, names, application, PAIRS_KEPT, *json)
        return Learned(
            duplicates=frozenset(int(id) for id in duplicates),
            conflicts=frozenset(records.text(context) for context in conflicts),
        )

    async def add_awaited(self, application: str, chunk: AwaitedChunk) -> int:
        keys = self._keys.application(application)
        values = (repr(chunk.last_at), chunk.count, chunk.data)
        return int(await self._needed(scripts.ADD_AWAITED, [keys.awaited, keys.last], application, *values))

    async def awaited(self, application: str, *, after: int = 0) -> list[AwaitedChunk]:
        entries = await self._script(scripts.AWAITED, [self._keys.application(application).awaited], after + 1)
        return [_chunk(entry, fields) for entry, fields in entries]

    async def prune_awaited(self, application: str, *, before: float, keep: int) -> None:
        chunks = ((one.seq, one.last_at, one.count) for one in reversed(await self.awaited(application)))
        last = last_to_forget(chunks, before=before, keep=keep)
        await self._needed(scripts.PRUNE_AWAITED, [self._keys.application(application).awaited], application, last)

    async def joined(self, application: str, query_id: int) -> bool:
        return await self._script(scripts.JOINED, [self._keys.application(application).joined], query_id) is not None

    async def pairs(self, application: str, *, after: int = 0, since: float = 0.0, limit: int = 1000) -> list[Pair]:
        found: list[Pair] = []
        while len(found) < limit:
            keys = [self._keys.application(application).pairs]
            entries = await self._script(scripts.PAIRS, keys, after + 1, limit)
            read = [_pair(entry, fields) for entry, fields in entries]
            found += [pair for pair in read if pair.at >= since]
            if len(read) < limit:
                break
            after = read[-1].seq
        return found[:limit]

    async def last_pairs(self, application: str, limit: int) -> list[Pair]:
        entries = await self._script(scripts.NEWEST_PAIRS, [self._keys.application(application).pairs], limit)
        return [_pair(entry, fields) for entry, fields in reversed(entries)]

    async def counts(self, application: str) -> dict[str, float]:
        flat = await self._script("return redis.call('HGETALL', KEYS[1])", [self._keys.application(application).counts])
        return dict(sorted((records.text(n), float(v)) for n, v in zip(flat[::2], flat[1::2], strict=True)))

    async def add_counts(self, application: str, counts: Mapping[str, float]) -> None:
        keys = self._keys.application(application)
        await self._needed(scripts.ADD_COUNTS, [keys.counts], application, msgspec.json.encode(_flat(counts)))


def _flat(counts: Mapping[str, float]) -> list[str]:
    return [part for name, value in counts.items() for part in (name, repr(float(value)))]


def _stored(write: StateWrite) -> str:
    return f"{write.revision + 1} {msgspec.json.encode((write.updated_at, write.state)).decode()}"


def _state(context: str, record: bytes, seq: int) -> ContextState:
    revision, _, rest = record.partition(b" ")
    updated_at, state = msgspec.json.decode(rest, type=tuple[float, Any])
    return ContextState(context=context, state=state, updated_at=updated_at, revision=int(revision), seq=seq)


def _pair(entry: bytes, fields: Sequence[bytes]) -> Pair:
    at, record = msgspec.json.decode(fields[3], type=tuple[float, msgspec.Raw])
    return Pair(query_id=int(fields[1]), at=at, record=bytes(record), seq=int(entry.partition(b"-")[0]))


def _chunk(entry: bytes, fields: Sequence[bytes]) -> AwaitedChunk:
    seq = int(entry.partition(b"-")[0])
    return AwaitedChunk(last_at=float(fields[1]), count=int(fields[3]), data=fields[5], seq=seq)
