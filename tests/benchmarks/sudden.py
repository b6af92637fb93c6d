"""What comes all at once: hundreds of requests while there is no replica, and a step to ten times the load."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.benchmarks.changing import Moment, Site, at_zero, none_of, p99
from tests.benchmarks.openloop import quantile
from tests.benchmarks.section import Section, Verdict, milliseconds, table
from tests.benchmarks.servers import BenchmarkError

__all__ = ["burst", "step"]

STEP = 10.0
SLOWER_AT_MOST = 2.0  # p99 during a step, by that before it


async def burst(site: Site) -> Section:
    """So many requests at one moment while there is no replica."""
    site.step(f"{site.size.burst} requests at zero replicas")
    if not await at_zero(site):
        raise BenchmarkError("the function did not go to zero")
    answers = await site.callers.burst(site.size.burst)
    took = [answer.took_s for answer in answers]
    lost = [answer.wrong for answer in answers if answer.wrong]
    most = max(moment.ready for moment in site.watch.moments[-50:])
    rows = [[
        str(len(answers)), str(len(lost)), milliseconds(min(took)), milliseconds(quantile(took, 0.5)),
        milliseconds(max(took)), str(most),
    ]]  # fmt: skip
    head = ["requests", "wrong or lost", "first ms", "median ms", "last ms", "replicas"]
    return Section(
        title="A burst at zero replicas",
        markdown=table(head, rows, left=0) + "".join(f"\n\n- {complaint}" for complaint in lost[:5]),
        verdicts=[none_of(f"lost of {len(answers)} at once at zero replicas", len(lost))],
        data={"took_s": took, "wrong": lost[:100]},
    )


async def step(site: Site) -> Section:
    """Steady load, then ten times as much."""
    usual, size = site.size.step_per_s, site.size
    site.step(f"steady at {usual:g} per second")
    await site.callers.offer(lambda _: usual, usual, size.steady_s / 4, seed=91)  # a replica is there by then
    steady = time.monotonic()
    await site.callers.offer(lambda _: usual, usual, size.steady_s, seed=92)
    stepped = time.monotonic()
    site.step(f"a step to {STEP * usual:g} per second")
    await site.callers.offer(lambda _: STEP * usual, STEP * usual, size.step_s, seed=93)
    ended = time.monotonic()
    await site.callers.finished()
    up = _up(site.watch.moments, stepped, ended)
    spans = {"before": (steady, stepped), "while replicas start": (stepped, up), "once they are up": (up, ended)}
    found = {name: [answer for answer in site.callers.answers if a <= answer.due < b] for name, (a, b) in spans.items()}
    wrong = [answer.wrong for answers in found.values() for answer in answers if answer.wrong]
    rows = []
    for name, (a, b) in spans.items():
        took = [answer.took_s for answer in found[name]]
        ready = [moment.ready for moment in site.watch.moments if a <= moment.at < b]
        rows.append([
            name, f"{b - a:.1f}", str(len(took)), milliseconds(quantile(took, 0.5)) if took else "",
            milliseconds(quantile(took, 0.99)) if took else "", str(max(ready, default=0)),
        ])  # fmt: skip
    before, after = p99(found["before"]), p99(found["once they are up"])
    ratio = after / before if before and after and not size.sane else None
    return Section(
        title="A step of ten times",
        markdown=table(["", "seconds", "requests", "p50 ms", "p99 ms", "replicas"], rows)
        + "".join(f"\n\n- {complaint}" for complaint in wrong[:5]),
        verdicts=[
            Verdict.at_most("p99 after a step of ten times, once replicas are up", ratio, SLOWER_AT_MOST),
            none_of("wrong or lost in the step", len(wrong)),
        ],
        data={"before_p99_s": before, "after_p99_s": after, "wrong": wrong[:100]},
    )


def _up(moments: Sequence[Moment], stepped: float, ended: float) -> float:
    """When, after the step, as many replicas were ready as were then wanted for good, and nothing waited for one."""
    after = [moment for moment in moments if stepped <= moment.at < ended]
    needed = after[-1].wanted if after else 0
    enough = (m.at for m in after if m.ready >= min(needed, m.wanted) >= 2 and m.queued <= m.ready)
    return next(enough, ended)
