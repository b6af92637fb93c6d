"""The control API's autoscaling policies, and why a function has the replicas that it has."""

from __future__ import annotations

from typing import Any, Final

from clipper_platform.control.scaling.policies import Effective
from clipper_platform.core.explaining import Explanation
from clipper_platform.core.scaling import Decision, NoData
from clipper_platform.errors import NotFound
from clipper_platform.gateway.control_api import policy_schemas as policy_models
from clipper_platform.gateway.control_api.endpoints import Call, Endpoint
from clipper_platform.gateway.services import Services
from clipper_platform.types import FunctionId

__all__ = ["PolicyRoutes"]

_FUNCTION: Final = "/api/v1/projects/{project}/functions/{function}"
# Fields of a decision that have a place of their own in the answer.
_SHOWN_APART: Final = frozenset({"at", "wanted", "before", "rule", "next_at", "schedules"})


class PolicyRoutes:
    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="GET",
                path=f"{_FUNCTION}/policy",
                handler=self.get,
                summary="The autoscaling policy that counts, and where it came from",
                gives=policy_models.PolicyInfo,
            ),
            Endpoint(
                method="PUT",
                path=f"{_FUNCTION}/policy",
                handler=self.put,
                summary="Apply a policy now; it stays until a version declares another one than today's",
                takes=policy_models.PolicyRequest,
                gives=policy_models.PolicyInfo,
            ),
            Endpoint(
                method="DELETE",
                path=f"{_FUNCTION}/policy",
                handler=self.delete,
                summary="Return to the policy that was deployed",
                gives=policy_models.PolicyInfo,
            ),
            Endpoint(
                method="GET",
                path=f"{_FUNCTION}/decisions",
                handler=self.decisions,
                summary="Why the function has the replicas that it has",
                gives=policy_models.DecisionList,
            ),
        ]

    async def get(self, call: Call) -> policy_models.PolicyInfo:
        return _policy(call, self._s.policies.effective(call.params["project"], call.params["function"]))

    async def put(self, call: Call) -> policy_models.PolicyInfo:
        project, function = call.params["project"], call.params["function"]
        applied = await self._s.policies.apply(project, function, call.body.policy, call.body.digest)
        return _policy(call, applied)

    async def delete(self, call: Call) -> policy_models.PolicyInfo:
        return _policy(call, await self._s.policies.withdraw(call.params["project"], call.params["function"]))

    async def decisions(self, call: Call) -> policy_models.DecisionList:
        project, function = call.params["project"], call.params["function"]
        counts = self._s.policies.effective(project, function)
        current = self._s.registry.current(project)
        version = current.route.version if current is not None else 0
        outlook = self._s.autoscaler.outlook(FunctionId(project, function, version))
        if outlook is None:
            raise NotFound(f"{project}/{function}@{version} is not running yet, so nothing was decided")
        wall = self._s.clock.time() - self._s.clock.monotonic()
        latest, no_data = None, "nothing was decided yet"
        if isinstance(outlook.latest, Decision) and outlook.explanation is not None:
            latest, no_data = _decision(outlook.latest, outlook.explanation, wall), ""
        elif isinstance(outlook.latest, NoData):
            no_data = outlook.latest.reason
        return policy_models.DecisionList(
            function=f"{project}/{function}",
            version=version,
            source="applied" if counts.applied else "deployed",
            policy=outlook.policy.to_dict(),
            latest=latest,
            no_data=no_data,
            changes=[
                policy_models.ScalingChange(
                    at=made.at + wall, before=made.before, wanted=made.wanted, rule=made.rule, why=why
                )
                for made, why in outlook.changes
            ],
        )


def _policy(call: Call, counts: Effective) -> policy_models.PolicyInfo:
    applied = counts.applied
    return policy_models.PolicyInfo(
        function=f"{call.params['project']}/{call.params['function']}",
        source="applied" if applied else "deployed",
        policy=counts.policy.to_dict(),
        deployed=counts.deployed.to_dict(),
        digest=applied.digest if applied else "",
        applied_at=applied.applied_at if applied else None,
    )


def _decision(made: Decision, told: Explanation, wall: float) -> policy_models.DecisionInfo:
    inputs: dict[str, Any] = {k: v for k, v in made._asdict().items() if k not in _SHOWN_APART}
    return policy_models.DecisionInfo(
        at=made.at + wall,
        before=made.before,
        wanted=made.wanted,
        rule=made.rule,
        why=told.why,
        steps=list(told.steps),
        change=list(told.change),
        inputs=inputs,
        schedules=list(made.schedules),
    )
