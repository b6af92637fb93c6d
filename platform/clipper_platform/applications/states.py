"""What a selection policy has learnt of each context of an application: in memory as it is stored."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from clipper_platform.store.applications import ApplicationData, ContextState, StateWrite

__all__ = ["SHARED", "ContextStates"]

logger = logging.getLogger(__name__)

SHARED = ""
"""The context that all have in common, and of those that name none."""

S = TypeVar("S")


class ContextStates(Generic[S]):
    """The states of one application, the least recently written first. Predictions read them from memory; feedback
    writes them to the store first.

    `kind` is stored with each state: one of another kind, of a policy that was in its place, counts as none.
    """

    def __init__(
        self,
        application: str,
        data: ApplicationData,
        *,
        kind: str,
        encode: Callable[[S], Any],
        decode: Callable[[Any], S],
    ) -> None:
        self._application = application
        self._data = data
        self.kind = kind
        self._encode = encode
        self._decode = decode
        self._stored: OrderedDict[str, int] = OrderedDict()  # context -> revision
        self._states: dict[str, S] = {}
        self._seq = 0

    def __len__(self) -> int:
        """Contexts with a state of their own."""
        return len(self._stored) - (SHARED in self._stored)

    def known(self, context: str) -> S | None:
        """The state of the context, None where none was learnt."""
        return self._states.get(context)

    async def follow(self) -> None:
        """Read what was written since the last time, by any platform. Raises StoreUnavailable."""
        self._take(await self._data.states(self._application, after=self._seq))

    async def reload(self) -> None:
        """Read all again, so that what is there no more is forgotten. Raises StoreUnavailable."""
        stored = await self._data.states(self._application)
        self._stored.clear()
        self._states.clear()
        self._seq = 0
        self._take(stored)

    def _take(self, found: Sequence[ContextState]) -> None:
        for stored in found:
            self._seq = max(self._seq, stored.seq)
            self._keep(stored.context, stored.revision, self._decoded(stored.state))

    def _decoded(self, plain: Any) -> S | None:
        if not isinstance(plain, Mapping) or plain.get("kind") != self.kind:
            return None
        try:
            return self._decode(plain["state"])
        except (KeyError, ValueError) as error:
            logger.error("a state of application %s cannot be read and counts as new: %s", self._application, error)
            return None

    def _keep(self, context: str, revision: int, state: S | None) -> None:
        self._stored[context] = revision
        self._stored.move_to_end(context)
        if state is None:
            self._states.pop(context, None)
        else:
            self._states[context] = state

    def oldest(self, changed: Mapping[str, S], max_contexts: int) -> list[str]:
        """The contexts to fold so that, with those changed, there are at most so many."""
        new = sum(context not in self._stored and context != SHARED for context in changed)
        beyond = len(self) + new - max_contexts
        if beyond <= 0:
            return []
        kept = (context for context in self._stored if context != SHARED and context not in changed)
        return [context for context, _ in zip(kept, range(beyond), strict=False)]

    def writes(self, changed: Mapping[str, S], folded: Sequence[str], now: float) -> list[StateWrite]:
        """The writes that store the changed states and delete the folded ones. `now` in Unix seconds."""
        plain = {context: {"kind": self.kind, "state": self._encode(state)} for context, state in changed.items()}
        return [
            StateWrite(context=context, state=state, updated_at=now, revision=self._stored.get(context, 0))
            for context, state in (*plain.items(), *((context, None) for context in folded))
        ]

    def written(self, writes: Sequence[StateWrite], changed: Mapping[str, S]) -> None:
        """The writes, of these states, are stored."""
        for write in writes:
            if write.state is None:
                del self._stored[write.context]
                self._states.pop(write.context, None)
            else:
                self._keep(write.context, write.revision + 1, changed[write.context])
