"""What applications learn, in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from clipper_platform.store import records
from clipper_platform.store import redis_application_scripts as scripts
from clipper_platform.store.applications import (
    PAIRS_KEPT,
    AwaitedPrediction,
    ContextState,
    Learned,
    Learning,
    Pair,
    StateWrite,
)
from clipper_platform.store.redis_connection import RedisConnection
from clipper_platform.store.redis_keys import RedisKeys

__all__ = ["RedisApplicationData"]

# One script keeps the server from all else: each takes some milliseconds at most.
AWAITED_AT_ONCE = 500
PRUNED_AT_ONCE = 1_000


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
        names = [keys.states, keys.state_seqs, keys.awaited, keys.awaited_times, keys.awaited_digests]
        names += [keys.pairs, keys.joined, keys.counts, keys.last]
        json = [msgspec.json.encode(part) for part in parts]
        duplicates, conflicts = await self._needed(scripts.LEARN, names, application, PAIRS_KEPT, *json)
        return Learned(
            duplicates=frozenset(int(id) for id in duplicates),
            conflicts=frozenset(records.text(context) for context in conflicts),
        )

    async def await_feedback(self, application: str, predictions: Sequence[AwaitedPrediction]) -> None:
        keys = self._keys.application(application)
        names = [keys.awaited, keys.awaited_times, keys.awaited_digests]
        for first in range(0, max(1, len(predictions)), AWAITED_AT_ONCE):
            values: list[str | bytes | int] = []
            for one in predictions[first : first + AWAITED_AT_ONCE]:
                values += [one.query_id, repr(one.at), one.digest, msgspec.msgpack.encode(one)]
            await self._needed(scripts.ADD_AWAITED, names, application, *values)

    async def awaited(self, application: str, query_id: int) -> AwaitedPrediction | None:
        record = await self._script(scripts.FIND_AWAITED, [self._keys.application(application).awaited], query_id)
        return None if record is None else msgspec.msgpack.decode(record, type=AwaitedPrediction)

    async def awaited_by_input(self, application: str, digest: str) -> list[AwaitedPrediction]:
        keys = self._keys.application(application)
        found = await self._script(scripts.FIND_AWAITED_BY_INPUT, [keys.awaited, keys.awaited_digests], digest)
        return [msgspec.msgpack.decode(record, type=AwaitedPrediction) for record in found]

    async def prune_awaited(self, application: str, *, before: float, keep: int) -> int:
        keys = self._keys.application(application)
        names = [keys.awaited, keys.awaited_times, keys.awaited_digests]
        total = 0
        while True:
            values = (repr(before), keep, PRUNED_AT_ONCE)
            forgotten = int(await self._needed(scripts.PRUNE_AWAITED, names, application, *values))
            total += forgotten
            if forgotten < PRUNED_AT_ONCE:
                return total

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
