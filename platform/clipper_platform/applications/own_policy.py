"""A user's own selection policy: a function of the platform, asked in its replica, within a bound of time.

It is called with `op` and what the operation needs; where it has one parameter, that is a table of them:

| op | also | returns |
| --- | --- | --- |
| `init` | `models`, `shared` | the state of a new context |
| `select` | `state`, `models` | a model, a list of models, or `{"models", "shadows"?, "probabilities"?, "reason"?}` |
| `combine` | `state`, `choice`, `answers` | `{"output", "confidence"?, "models"?}`, or null for no answer |
| `observe` | `state`, `choice`, `losses` | the next state |

Whatever it answers is checked here. Where it raises, takes too long or names a model that is not there, the caller
falls back to `single`; after FAILURES failures in a row it is not asked for PAUSE_S.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from clipper_platform.clock import Clock
from clipper_platform.core.selection import Choice, Combined, ModelId
from clipper_platform.errors import ClipperError, FunctionError, InvalidResult
from clipper_platform.serving.dispatcher import Dispatcher

__all__ = ["FAILURES", "PAUSE_S", "OwnPolicy", "PolicyFailed"]

T = TypeVar("T")

FAILURES: Final = 3
PAUSE_S: Final = 5.0


class PolicyFailed(Exception):
    """The policy gave nothing usable at the operation `op`; the message says what happened."""

    def __init__(self, message: str, op: str) -> None:
        super().__init__(message)
        self.op = op


class OwnPolicy:
    """The function at `path`. Raises PolicyFailed from each operation."""

    def __init__(self, path: str, dispatcher: Dispatcher, clock: Clock) -> None:
        self.path = path
        self._dispatcher = dispatcher
        self._clock = clock
        self._failures = 0
        self._resume_at = 0.0

    async def init(self, models: Sequence[ModelId], shared: Any, timeout_s: float) -> Any:
        return await self._call("init", timeout_s, _any, models=list(models), shared=shared)

    async def select(self, state: Any, models: Sequence[ModelId], timeout_s: float) -> Choice:
        read = partial(_choice, models=models)
        return await self._call("select", timeout_s, read, state=state, models=list(models))

    async def combine(
        self, state: Any, choice: Choice, answers: Mapping[ModelId, Any], timeout_s: float
    ) -> Combined | None:
        read = partial(_combined, models=tuple(answers))
        return await self._call("combine", timeout_s, read, state=state, choice=_table(choice), answers=dict(answers))

    async def observe(self, state: Any, choice: Choice, losses: Mapping[ModelId, float], timeout_s: float) -> Any:
        return await self._call("observe", timeout_s, _any, state=state, choice=_table(choice), losses=dict(losses))

    async def _call(self, op: str, timeout_s: float, read: Callable[[Any], T], **values: Any) -> T:
        if self._clock.monotonic() < self._resume_at:
            raise PolicyFailed(f"{self.path} failed {FAILURES} times in a row and rests for {PAUSE_S:g} s", op)
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                found = read(await self._answer({"op": op, **values}, timeout_s))
        except (ClipperError, ValueError, TimeoutError) as error:
            self._failures += 1
            if self._failures >= FAILURES:
                self._failures = 0
                self._resume_at = self._clock.monotonic() + PAUSE_S
            words = f"no answer within {timeout_s:.3f} s" if isinstance(error, TimeoutError) else _words(error)
            raise PolicyFailed(f"{self.path} failed at {op}: {words}", op) from None
        self._failures = 0
        return found

    async def _answer(self, values: dict[str, Any], timeout_s: float) -> Any:
        """Raises ClipperError, ValueError for what is not JSON."""
        queue = self._dispatcher.resolve(self.path)
        body = msgspec.json.encode(_arguments(queue.schema or {}, values))
        answer = await self._dispatcher.call(self.path, body, timeout_s=timeout_s, use_cache=False)
        if answer.default_reason:
            raise InvalidResult(f"it answered with its default output ({answer.default_reason})")
        return msgspec.json.decode(answer.payload)


def _any(found: Any) -> Any:
    return found


def _words(error: Exception) -> str:
    if isinstance(error, FunctionError) and (kind := error.details.get("type")):
        return f"{kind}: {error.message}" if kind not in error.message else error.message
    return error.message if isinstance(error, ClipperError) else str(error)


def _arguments(schema: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The arguments that the function takes: one table, or those of the values that it has parameters for."""
    names = list(schema.get("parameters", {}).get("properties", {}))
    if len(names) == 1 and names[0] not in values:
        return {names[0]: values}
    return {name: value for name, value in values.items() if name in names} if names else values


def _table(choice: Choice) -> dict[str, Any]:
    return {"models": choice.models, "shadows": choice.shadows, "probabilities": choice.probabilities}


def _choice(found: Any, models: Sequence[ModelId]) -> Choice:
    table = found if isinstance(found, Mapping) else {"models": [found] if isinstance(found, str) else found}
    chosen, shadows = table.get("models"), table.get("shadows", [])
    for what, some in (("models", chosen), ("shadows", shadows)):
        if not isinstance(some, list):
            raise ValueError(f"it selected no list of {what}: {some!r:.100}")
        for model in some:
            if model not in models:
                raise ValueError(f"it selected {model!r:.100}, which is not linked or not usable")
    if not chosen:
        raise ValueError("it selected no model")
    probabilities = table.get("probabilities") or {model: 1.0 / len(chosen) for model in chosen}
    if not isinstance(probabilities, Mapping) or not all(
        isinstance(p, (int, float)) and 0.0 <= p <= 1.0 for p in probabilities.values()
    ):
        raise ValueError(f"it gave probabilities that are not numbers from 0 to 1: {probabilities!r:.100}")
    known = {model: float(p) for model, p in probabilities.items() if model in models}
    beside = tuple(model for model in dict.fromkeys(shadows) if model not in chosen)
    return Choice(tuple(dict.fromkeys(chosen)), beside, known, str(table.get("reason", "")))


def _combined(found: Any, models: Sequence[ModelId]) -> Combined | None:
    if found is None:
        return None
    if not isinstance(found, Mapping) or "output" not in found:
        raise ValueError(f"it combined to no table with output: {found!r:.100}")
    confidence, made_by = found.get("confidence", 1.0), found.get("models", list(models))
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0.0 <= confidence <= 1.0:
        raise ValueError(f"it gave the confidence {confidence!r:.100}, which is no number from 0 to 1")
    if not isinstance(made_by, list) or not all(model in models for model in made_by):
        raise ValueError(f"it combined the answers of models that gave none: {made_by!r:.100}")
    return Combined(found["output"], float(confidence), tuple(made_by))
