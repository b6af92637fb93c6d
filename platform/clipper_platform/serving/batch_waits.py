"""When a function's next batch waits for company: what `core.company` learns and says, kept from one look to the next,
and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from clipper_platform.core.batching import SizeController
from clipper_platform.core.company import Company, holds

__all__ = ["BatchWaits", "Sent", "Waits"]

Sent = Literal["full", "lead", "no_company", "joined", "waited", "objective"]
"""Why a batch was sent: it was as large as it may be; the running one was about to end; no company was expected, or the
wait would not have paid; all who were expected had come; the wait was over; more would put an objective at risk."""

# What is left of an objective or a deadline when a wait ends, beyond the expected run: a tenth, as `BUDGET_FRACTION`.
RESERVE: Final = 0.1
# How long before a batch's end it may be committed, `core.batching.Policy.lead_s`.
LEAD_S: Final = 0.001


class Running(Protocol):
    """A replica and what it runs: `serving.endpoint.Endpoint`."""

    controller: SizeController
    running_since: float
    load: int


class Due(Protocol):
    """The waiting invocation that is due first."""

    queued: float
    deadline: float


@dataclass(slots=True)
class Waits:
    """What batches waited, and what that brought. `joined`: invocations that came during the waits; `sent`: batches by
    the reason why they were sent, `invocations` in all."""

    invocations: int = 0
    count: int = 0
    seconds: float = 0.0
    joined: int = 0
    sent: dict[Sent, int] = field(default_factory=dict)


class BatchWaits:
    """For one function whose waits are left to the platform. A decision holds until the next batch ends: it is made
    once for each batch, not at each arrival."""

    __slots__ = ("_company", "_hold", "_objective_s", "_reason", "_since", "_until", "_waiting")

    def __init__(self, objective_s: float | None) -> None:
        self._company = Company()
        self._objective_s = math.inf if objective_s is None else objective_s
        self._hold: bool | None = None  # None: not decided since a batch ended
        self._until: float | None = None
        self._since = 0.0
        self._waiting = 0
        self._reason: Sent = "no_company"

    @property
    def returning(self) -> bool:
        """Whether the same callers seem to come back after each answer."""
        return self._company.closed

    def arrived(self, total: int, now: float) -> None:
        self._company.arrived(total, now)

    def completed(self, answered: int, in_system: int, now: float) -> None:
        """A batch ended, and with it the decisions that were made for it."""
        self._company.completed(answered, in_system, now)
        self._hold = self._until = None

    def hold(self, endpoint: Running, waiting: int, room: int, expected_s: float | None) -> bool:
        """Whether a batch that is not full waits for the end of the running one."""
        if self._hold is None:
            costs = endpoint.controller.costs()
            if costs is None or expected_s is None:
                return False
            if self._company.closed:
                free_at = endpoint.running_since + expected_s
                self._hold = self._company.holds(waiting, room, free_at, endpoint.load, costs)
            else:
                self._hold = holds(costs, expected_s, LEAD_S)
        return self._hold

    def until(self, endpoint: Running, waiting: int, room: int, head: Due, now: float) -> float:
        """Until when the batch for a free replica waits; `now` or earlier: not at all. `head`: the one that is due
        first."""
        costs = endpoint.controller.costs()
        if costs is None or not self._company.closed:
            self._reason = "no_company"
            return now
        until = self._until
        if until is None:
            wait_s = self._company.wait_s(waiting, room, now, costs)
            self._since, self._waiting, self._reason = now, waiting, "waited" if wait_s else "no_company"
            until = self._until = now + wait_s
        if until <= now:
            return now
        away = self._company.away(now)
        if not away:
            self._reason = "joined"
            return now
        run_s = costs[0] + costs[1] * min(room, waiting + away)
        due = min(head.queued + self._objective_s * (1 - RESERVE), now + (head.deadline - now) * (1 - RESERVE))
        if due - run_s < until:
            until = self._until = due - run_s
            self._reason = "objective"
        return until

    def sent(self, waits: Waits, size: int, now: float) -> Sent:
        """A batch left for a free replica: count what it waited. Returns why it was sent."""
        if self._until is not None and self._reason != "no_company":
            waits.count += 1
            waits.seconds += now - self._since
            waits.joined += max(0, size - self._waiting)
        self._until = None
        return self._reason
