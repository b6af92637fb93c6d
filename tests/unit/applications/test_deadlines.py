"""One timer for the deadlines of many predictions."""

from __future__ import annotations

import asyncio

import pytest

from clipper_platform.applications.deadlines import Deadlines

pytestmark = pytest.mark.virtual_time


class Timed:
    def __init__(self, log: list[tuple[str, float]], name: str, deadline: float) -> None:
        self.deadline = deadline
        self._log = log
        self._name = name

    def expire(self) -> None:
        self._log.append((self._name, asyncio.get_running_loop().time()))


def made() -> tuple[Deadlines, list[tuple[str, float]], float]:
    loop = asyncio.get_running_loop()
    return Deadlines(loop.time), [], loop.time()


async def test_each_expires_at_its_time_in_whatever_order_they_came() -> None:
    deadlines, log, now = made()
    for name, after in (("a", 1.0), ("b", 2.0), ("early", 0.5), ("c", 2.0), ("middle", 1.5)):
        deadlines.add(Timed(log, name, now + after))
    await asyncio.sleep(3)
    assert [name for name, _ in log] == ["early", "a", "middle", "b", "c"]
    assert [at - now for _, at in log] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0], abs=0.002)
    assert len(deadlines) == 0


async def test_what_is_discarded_does_not_expire() -> None:
    deadlines, log, now = made()
    first, early, last = (Timed(log, name, now + after) for name, after in (("a", 1.0), ("early", 0.5), ("b", 2.0)))
    for timed in (first, early, last):
        deadlines.add(timed)
    deadlines.discard(first)
    deadlines.discard(early)
    deadlines.discard(early)
    await asyncio.sleep(3)
    assert [name for name, _ in log] == ["b"]
    later = Timed(log, "later", now + 4.0)
    deadlines.add(later)
    await asyncio.sleep(3)
    assert [name for name, _ in log] == ["b", "later"]


async def test_one_may_be_added_while_others_expire() -> None:
    deadlines, log, now = made()

    class Adding(Timed):
        def expire(self) -> None:
            super().expire()
            deadlines.add(Timed(log, "next", self.deadline + 1.0))

    deadlines.add(Adding(log, "first", now + 1.0))
    await asyncio.sleep(3)
    assert [name for name, _ in log] == ["first", "next"]


async def test_after_the_end_nothing_expires() -> None:
    deadlines, log, now = made()
    deadlines.add(Timed(log, "a", now + 1.0))
    deadlines.add(Timed(log, "b", now + 0.5))
    deadlines.close()
    await asyncio.sleep(2)
    assert log == []
