"""The selection policy that an application declares."""

from __future__ import annotations

import math

from clipper.contract.applications import ApplicationSpec
from clipper.contract.rules import SpecError
from clipper_platform.core.selection import SelectionPolicy, policy_named
from clipper_platform.errors import InvalidSpec

__all__ = ["FALLBACK", "check_policy", "is_own", "policy_of"]

FALLBACK = "single"
"""What chooses while a user's own policy gives nothing usable."""


def is_own(spec: ApplicationSpec) -> bool:
    return "/" in spec.policy


def policy_of(spec: ApplicationSpec) -> SelectionPolicy:
    """The policy of the platform that the spec names, FALLBACK beside a user's own. Raises SpecError."""
    if is_own(spec):
        return policy_named(FALLBACK, {})
    options = dict(spec.policy_options)
    weights = {link.id: link.weight for link in spec.links if link.weight is not None}
    if spec.policy == "split" and weights and "weights" not in options:
        total = math.fsum(weights.values())  # below 1 while links are added one by one
        if total > 0:
            options["weights"] = {model: weight / total for model, weight in weights.items()}
    return policy_named(spec.policy, options, loss=spec.loss, loss_scale=spec.loss_scale)


def check_policy(spec: ApplicationSpec) -> None:
    """Raises InvalidSpec for options that the policy does not have, or that name what is not linked."""
    try:
        policy_of(spec)
    except SpecError as error:
        raise InvalidSpec(str(error), key=error.key, where=error.where) from None
    if is_own(spec) and spec.policy_options:
        raise InvalidSpec(f"policy_options belong to the platform's policies, {spec.policy} is your own", key="policy")
