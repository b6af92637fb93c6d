"""Lets a new version answer a growing share of the calls while it does as well as the one before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from clipper.contract.deploys import DeploySpec
from clipper_platform.clock import Clock
from clipper_platform.control.ports import Facts, Replicas, Router
from clipper_platform.control.versions.deployment import Deployment
from clipper_platform.core.canary import Answers, Limits, judge, since
from clipper_platform.errors import DeployFailed
from clipper_platform.types import FunctionId

__all__ = ["Canary"]

CHECK_PERIOD_S: Final = 1.0  # a failing version is noticed within it, not at the end of the step


class Canary:
    """One run over the steps of a deploy. `old` and `new` are versions, both with ready replicas."""

    def __init__(
        self,
        deployment: Deployment,
        spec: DeploySpec,
        *,
        old: int,
        new: int,
        replicas: Replicas,
        router: Router,
        facts: Facts,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.deployment = deployment.id
        self.spec = spec
        self.old, self.new = old, new
        self._deployment = deployment
        self._router = router
        self._facts = facts
        self._clock = clock
        self._sleep = sleep
        self._limits = Limits(
            max_error_rate_increase=spec.max_error_rate_increase,
            max_p99_ratio=spec.max_p99_ratio,
            min_samples=spec.min_samples,
        )
        self.share = 0  # percent of the calls that the new version gets
        self.step = 0  # from 1, of `steps`
        # The calls of a function that only one of the versions has are not shared, so there is nothing to compare.
        project = deployment.project
        both = set(replicas.functions(project, old)) & set(replicas.functions(project, new))
        self._pairs = [(FunctionId(project, f, old), FunctionId(project, f, new)) for f in sorted(both)]

    @property
    def functions(self) -> list[str]:
        """The functions whose calls are shared: those that both versions have."""
        return [new.function for _, new in self._pairs]

    async def run(self) -> None:
        """Run all steps. Raises DeployFailed as soon as the new version does worse.

        After a failure or a cancellation all calls go to the old version.
        """
        project = self._deployment.project
        # Answers of the old version count from the beginning of the canary: in the last step it gets no calls.
        self._before = {id: self._facts.answers(id) for pair in self._pairs for id in pair}
        try:
            for number, share in enumerate(self.spec.steps, 1):
                self._router.set_weights(project, {self.old: 100 - share, self.new: share})
                self.share, self.step = share, number
                self._report(number, share)
                await self._step(share)
        except BaseException:
            self._router.set_weights(project, {})
            raise

    async def _step(self, share: int) -> None:
        begins = {new: self._facts.answers(new) for _, new in self._pairs}
        end = self._clock.monotonic() + self.spec.step_s
        while (left := end - self._clock.monotonic()) > 0:
            await self._sleep(min(left, CHECK_PERIOD_S))
            for old, new in self._pairs:
                self._check(old, new, begins[new])
        for old, new in self._pairs:
            self._check(old, new, begins[new], final=True)
            self._deployment.emit(
                "log",
                f"{share} %: {_summary(new, since(self._facts.answers(new), begins[new]))}; "
                f"{_summary(old, since(self._facts.answers(old), self._before[old]))}",
                phase="canary",
                data={"function": new.function},
            )

    def _check(self, old: FunctionId, new: FunctionId, begin: Answers, *, final: bool = False) -> None:
        before = since(self._facts.answers(old), self._before[old])
        why = judge(before, since(self._facts.answers(new), begin), self._limits, final=final)
        if why:
            raise DeployFailed(
                f"version {self.new} of {new.function} does worse than version {self.old}: {why}",
                phase="canary",
                hint=f"all calls go to version {self.old} again; look at `clip logs {new}`",
                function=new.function,
            )

    def _report(self, number: int, share: int) -> None:
        self._deployment.emit(
            "progress",
            f"{share} % of the calls go to version {self.new}, for {self.spec.step_s:g} s",
            phase="canary",
            data={"share": share, "step": number, "steps": len(self.spec.steps), "seconds": self.spec.step_s},
        )


def _summary(id: FunctionId, answers: Answers) -> str:
    p99 = "" if answers.p99_s is None else f", p99 {answers.p99_s * 1000:.1f} ms"
    rate = "" if answers.error_rate is None else f", {answers.error_rate:.1%} failed"
    return f"version {id.version} gave {answers.answered} answers{rate}{p99}"
