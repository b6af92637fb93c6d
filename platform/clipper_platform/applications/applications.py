"""The applications of a platform: what they declare, how they are queried, and what is written behind of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

from clipper.contract.applications import LinkSpec
from clipper_platform.applications.catalog import Catalog, Declared
from clipper_platform.applications.feedback import Acknowledgement, Feedback
from clipper_platform.applications.live import LiveApplication, PlatformParts
from clipper_platform.applications.queries import read_update
from clipper_platform.errors import ClipperError, NotFound, StoreUnavailable
from clipper_platform.store.applications import Pair

__all__ = ["Applications"]

logger = logging.getLogger(__name__)

SAVE_PERIOD_S: Final = 0.5
# Rounds of saving between those that forget what is too old in the store, and that follow what others learnt.
PRUNE_ROUNDS: Final = 60
FOLLOW_ROUNDS: Final = 2
PAIRS_AT_ONCE: Final = 500


class Applications:
    """`open` reads them and what they learnt, `run` writes behind, `close` writes what is left."""

    def __init__(self, catalog: Catalog, parts: PlatformParts) -> None:
        self.catalog = catalog
        self._parts = parts
        self.live: dict[str, LiveApplication] = {}  # by name: the hot look-up
        self._feedback: dict[str, Feedback] = {}
        self._loading: set[asyncio.Task[None]] = set()
        self._opened = False
        catalog.on_change(self._changed)

    async def open(self) -> None:
        """Raises StoreUnavailable."""
        await self.catalog.load()
        for live in self.live.values():
            await live.load()
        self._opened = True

    def _changed(self, name: str, declared: Declared | None) -> None:
        live = self.live.get(name)
        if live is not None and (declared is None or declared.record.created_at != live.created_at):
            live.close()
            live.monitor.forget()
            del self.live[name], self._feedback[name]
            live = None
        if declared is None:
            return
        if live is None:
            live = self.live[name] = LiveApplication(declared, self._parts)
            self._feedback[name] = Feedback(live)
            to_load = self._opened
        else:
            to_load = live.declare(declared.spec)
        if to_load:
            self._load_soon(live)

    def _load_soon(self, live: LiveApplication) -> None:
        """Another platform may have created the application and learnt already."""
        task = asyncio.get_running_loop().create_task(self._load_or_log(live), name=f"load {live.name}")
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    async def _load_or_log(self, live: LiveApplication) -> None:
        try:
            await live.load()
        except ClipperError as error:
            logger.warning("what application %s learnt could not be read yet: %s", live.name, error)

    # Queries

    def get(self, name: str) -> LiveApplication:
        """Raises NotFound."""
        live = self.live.get(name)
        if live is None:
            self.catalog.get(name)  # raises NotFound, with the nearest name
            raise NotFound(f"application {name!r} cannot be read")
        return live

    async def update(self, name: str, body: bytes) -> Acknowledgement:
        """Take feedback. Raises NotFound, BadQuery, StoreUnavailable."""
        query = read_update(body, self.get(name).spec.input_type)
        return await self._feedback[name].take(query)

    # What is written behind

    async def run(self, period_s: float = SAVE_PERIOD_S) -> None:
        """Save for ever."""
        rounds = 0
        while True:
            await asyncio.sleep(period_s)
            rounds += 1
            for name in list(self.live):
                if (live := self.live.get(name)) is not None:
                    await self._round(live, rounds)

    async def _round(self, live: LiveApplication, number: int) -> None:
        try:
            await self._save(live)
            if number % FOLLOW_ROUNDS == 0:
                await live.states.follow()
            if number % PRUNE_ROUNDS == 0:
                await live.awaited_store.prune(self._window_begin(live))
        except NotFound:
            pass  # it was deleted meanwhile, here or by another platform
        except ClipperError as error:
            if not live.trouble:
                logger.warning("what application %s awaits and counts could not be saved yet: %s", live.name, error)
            live.trouble = str(error)
        except Exception:
            logger.exception("a round of saving application %s failed", live.name)
            self._parts.metrics.loop_errors.child("applications").inc()
        else:
            live.trouble = ""

    async def _save(self, live: LiveApplication) -> None:
        live.awaiting.expire(self._window_begin(live))
        await live.awaited_store.save()
        await live.monitor.save()

    def _window_begin(self, live: LiveApplication) -> float:
        """The time of predictions, in Unix seconds, from which on feedback is taken."""
        return self._parts.clock.time() - live.spec.feedback_window_s

    async def close(self) -> None:
        """Save what awaits feedback, as far as the store takes it."""
        for task in self._loading:
            task.cancel()
        for live in list(self.live.values()):
            live.close()
            await self._feedback[live.name].close()
            try:
                while live.awaiting.unsaved:
                    await live.awaited_store.save()
                await live.monitor.save()
            except ClipperError as error:
                logger.warning("what application %s awaits could not be saved: %s", live.name, error)

    # Looking

    def link_state(self, link: LinkSpec) -> tuple[int | None, str]:
        """The version that the link asks now, None where none can be asked; and a word or why not."""
        try:
            queue = self._parts.dispatcher.resolve(link.id)
        except ClipperError as error:
            return None, str(error)
        reason = queue.closed or queue.no_capacity
        if reason and not queue.endpoints.by_id:
            return None, reason
        return queue.target.id.version, "ready" if queue.endpoints.by_id else "no replica runs; a call starts one"

    async def refreshed(self, name: str) -> LiveApplication:
        """With the counts of all platforms, or where the store is away those that were known. Raises NotFound."""
        live = self.get(name)
        try:
            await live.monitor.refresh()
        except StoreUnavailable as error:
            logger.info("the counts of application %s are those read last: %s", name, error)
        return live

    async def pairs(self, name: str, since: float) -> AsyncIterator[Pair]:
        """The joined pairs from this time on, oldest first. Raises StoreUnavailable."""
        after = 0
        while True:
            page = await self._parts.data.pairs(name, after=after, since=since, limit=PAIRS_AT_ONCE)
            for pair in page:
                yield pair
            if len(page) < PAIRS_AT_ONCE:
                return
            after = page[-1].seq
