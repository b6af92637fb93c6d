"""The control API's routes about autoscaling policies and decisions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from clipper.contract.constants import API_ROOT
from clipper_platform.control.scaling.policies import Effective
from clipper_platform.core.explaining import Explanation
from clipper_platform.core.scaling import Decision, NoData
from clipper_platform.errors import NotFound
from clipper_platform.gateway.control_api.endpoints import ApiRequest, Endpoint
from clipper_platform.gateway.control_api.schemas.policies import (
    BatchesInfo,
    DecisionInfo,
    DecisionList,
    PolicyInfo,
    PolicyRequest,
    ScalingChange,
)
from clipper_platform.gateway.services import Services
from clipper_platform.types import FunctionId

__all__ = ["PolicyRoutes"]

# Fields of a decision that are fields of the response themselves or are not shown; the others are `inputs`.
_SHOWN_APART: Final = frozenset({"at", "wanted", "before", "rule", "next_at", "schedules"})


class PolicyRoutes:
    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        policy = f"{API_ROOT}/projects/{{project}}/functions/{{function}}/policy"
        decisions = f"{API_ROOT}/projects/{{project}}/functions/{{function}}/decisions"
        return [
            Endpoint(
                "GET",
                policy,
                self.get,
                "The autoscaling policy in effect, and its source",
                response=PolicyInfo,
            ),
            Endpoint(
                "PUT",
                policy,
                self.put,
                "Apply a policy now; it stays in effect until a version declares a different one",
                body=PolicyRequest,
                response=PolicyInfo,
            ),
            Endpoint("DELETE", policy, self.delete, "Return to the policy that was deployed", response=PolicyInfo),
            Endpoint(
                "GET", decisions, self.decisions, "Why the function has the replicas that it has", response=DecisionList
            ),
        ]

    async def get(self, request: ApiRequest) -> PolicyInfo:
        return _policy(request, self._s.policies.effective(request.params["project"], request.params["function"]))

    async def put(self, request: ApiRequest) -> PolicyInfo:
        project, function = request.params["project"], request.params["function"]
        applied = await self._s.policies.apply(project, function, request.body.policy, request.body.digest)
        return _policy(request, applied)

    async def delete(self, request: ApiRequest) -> PolicyInfo:
        return _policy(request, await self._s.policies.withdraw(request.params["project"], request.params["function"]))

    async def decisions(self, request: ApiRequest) -> DecisionList:
        project, function = request.params["project"], request.params["function"]
        effective = self._s.policies.effective(project, function)
        version = self._s.registry.check_answers(project).route.version
        id = FunctionId(project, function, version)
        outlook, batches = self._s.autoscaler.outlook(id), self._s.facts.batches(id)
        if outlook is None:
            raise NotFound(f"{project}/{function}@{version} is not running yet, so nothing was decided")
        wall = self._s.clock.time() - self._s.clock.monotonic()
        latest, no_data = None, "nothing was decided yet"
        if isinstance(outlook.latest, Decision) and outlook.explanation is not None:
            latest, no_data = _decision(outlook.latest, outlook.explanation, wall), ""
        elif isinstance(outlook.latest, NoData):
            no_data = outlook.latest.reason
        return DecisionList(
            function=f"{project}/{function}",
            version=version,
            source="applied" if effective.applied else "deployed",
            policy=outlook.policy.to_dict(),
            latest=latest,
            no_data=no_data,
            changes=[
                ScalingChange(
                    at=change.at + wall, before=change.before, wanted=change.wanted, rule=change.rule, why=why
                )
                for change, why in outlook.changes
            ],
            batches=None if batches is None else BatchesInfo(**asdict(batches)),
        )


def _policy(request: ApiRequest, effective: Effective) -> PolicyInfo:
    applied = effective.applied
    return PolicyInfo(
        function=f"{request.params['project']}/{request.params['function']}",
        source="applied" if applied else "deployed",
        policy=effective.policy.to_dict(),
        deployed=effective.deployed.to_dict(),
        digest=applied.digest if applied else "",
        applied_at=applied.applied_at if applied else None,
    )


def _decision(decision: Decision, explanation: Explanation, wall: float) -> DecisionInfo:
    inputs: dict[str, Any] = {k: v for k, v in decision._asdict().items() if k not in _SHOWN_APART}
    return DecisionInfo(
        at=decision.at + wall,
        before=decision.before,
        wanted=decision.wanted,
        rule=decision.rule,
        why=explanation.why,
        steps=list(explanation.steps),
        change=list(explanation.change),
        inputs=inputs,
        schedules=list(decision.schedules),
    )
