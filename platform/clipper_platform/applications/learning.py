"""Learning from joined feedback: new states of the selection policy, stored with the pairs in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from clipper_platform.applications.awaiting import Awaited
from clipper_platform.applications.choosing import own_state
from clipper_platform.applications.live import LiveApplication
from clipper_platform.applications.monitor import Monitor
from clipper_platform.applications.own_policy import OwnPolicy, PolicyFailed
from clipper_platform.applications.states import SHARED
from clipper_platform.core.selection import ModelId
from clipper_platform.errors import Conflict
from clipper_platform.store.applications import Learned, Learning, Pair

__all__ = ["Joined", "Learner"]

LEARNT_AT_ONCE: Final = 256
ATTEMPTS: Final = 20  # each failed one means that another platform's write succeeded
OBSERVE_TIMEOUT_S: Final = 5.0  # nobody waits for an answer of a model: only the sender of the feedback


@dataclass(frozen=True, slots=True)
class Joined:
    """A prediction with its label, and the losses of the models that answered."""

    entry: Awaited
    label: Any
    losses: Mapping[ModelId, float]

    def record(self) -> bytes:
        """The pair as it is stored and exported."""
        entry = self.entry
        return msgspec.json.encode(
            {
                "query_id": entry.query_id,
                "predicted_at": entry.at,
                "context": entry.context,
                "input": entry.input,
                "label": self.label,
                "output": entry.output,
                "default": entry.default,
                "answers": entry.all_answers(),
                "losses": self.losses,
                "models": entry.full_choice().models,
            }
        )


class Learner:
    """Of one application. What waits is learnt together, in the order in which it came."""

    def __init__(self, live: LiveApplication) -> None:
        self._live = live
        self._waiting: dict[int, tuple[Joined, asyncio.Future[bool]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def learn(self, joined: Joined) -> bool:
        """Whether it counted: a prediction is joined once. Raises what the store raises."""
        query_id = joined.entry.query_id
        waiting = self._waiting.get(query_id)
        if waiting is not None:
            await asyncio.shield(waiting[1])
            return False
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[query_id] = joined, done
        if self._task is None:
            self._task = asyncio.create_task(self._learn_all(), name=f"feedback of {self._live.name}")
        return await asyncio.shield(done)

    async def close(self) -> None:
        """Learn what waits."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _learn_all(self) -> None:
        try:
            while self._waiting:
                batch = [joined for joined, _ in list(self._waiting.values())[:LEARNT_AT_ONCE]]
                try:
                    counted = await self._store(batch)
                except Exception as error:  # noqa: BLE001 - each sender gets it, and others may fare better
                    self._settle(batch, error)
                else:
                    self._settle(batch, counted)
        finally:
            self._task = None

    def _settle(self, batch: Sequence[Joined], outcome: set[int] | Exception) -> None:
        for joined in batch:
            query_id = joined.entry.query_id
            _, done = self._waiting.pop(query_id)
            if isinstance(outcome, Exception):
                done.set_exception(outcome)
                done.exception()  # seen, also where the sender is gone
            else:
                done.set_result(query_id in outcome)

    async def _store(self, batch: Sequence[Joined]) -> set[int]:
        """The query ids that counted."""
        live = self._live
        left = {joined.entry.query_id: joined for joined in batch}
        for _ in range(ATTEMPTS):
            if not left:
                break
            learned = await self._try(list(left.values()))
            if learned.stored:
                break
            for query_id in learned.duplicates:
                left.pop(query_id, None)
            if learned.conflicts:
                await live.states.reload()
        else:
            raise Conflict(f"the states of application {live.name!r} are being changed by others: try again")
        for joined in batch:
            live.awaiting.remove(joined.entry.query_id)
        return set(left)

    async def _try(self, batch: Sequence[Joined]) -> Learned:
        live, now = self._live, self._live.parts.clock.time()
        states = live.states
        changed = await self._observed(batch)
        folded = states.oldest(changed, live.spec.max_contexts)
        if folded and live.own is None:
            shared = changed.get(SHARED) or live.state_of(SHARED)
            for context in folded:
                if (known := states.known(context)) is not None:
                    shared = live.policy.fold(shared, known)
            changed[SHARED] = shared
        writes = states.writes(changed, folded, now)
        pairs = [Pair(query_id=one.entry.query_id, at=now, record=one.record()) for one in batch]
        losses = [joined.losses for joined in batch]
        learning = Learning(pairs=pairs, states=writes, counts=Monitor.counts_of(losses))
        learned = await live.parts.data.learn(live.name, learning)
        if learned.stored:
            if states is live.states:  # the policy is still of the same kind
                states.written(writes, changed)
            live.monitor.learnt(losses)
        return learned

    async def _observed(self, batch: Sequence[Joined]) -> dict[str, Any]:
        """The states of the contexts after this feedback."""
        live = self._live
        changed: dict[str, Any] = {}
        for joined in batch:
            context, choice = joined.entry.context, joined.entry.full_choice()
            if not joined.losses:
                continue
            if live.own is not None:
                await self._observed_by_own(live.own, joined, changed)
            else:
                state = changed[context] if context in changed else live.state_of(context)
                state = live.policy.observe(state, choice, joined.losses)
                changed[context] = state.only(live.links.all)  # a link that was removed takes what was learnt with it
        return changed

    async def _observed_by_own(self, own: OwnPolicy, joined: Joined, changed: dict[str, Any]) -> None:
        live, context = self._live, joined.entry.context
        try:
            state = changed.get(context)
            if state is None:
                state = await own_state(live, own, context, OBSERVE_TIMEOUT_S)
            changed[context] = await own.observe(state, joined.entry.full_choice(), joined.losses, OBSERVE_TIMEOUT_S)
        except PolicyFailed as failure:
            live.policy_failed(failure.op, str(failure))  # the pair is kept, and nothing learnt from it
