"""From the name and the options of an application's `policy` to a policy. A refusal names the key and what to write."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from clipper.contract.rules import Rule, SpecError, checked, nearest, shown
from clipper_platform.core.losses import ABSOLUTE, SQUARED, ZERO_ONE
from clipper_platform.core.selection.bandits import FAMILIES, EpsilonGreedy, Thompson, Ucb1
from clipper_platform.core.selection.base import SelectionPolicy
from clipper_platform.core.selection.combining import COMBINERS, MAJORITY, MEAN
from clipper_platform.core.selection.ensembles import Majority, Mean
from clipper_platform.core.selection.fixed import Shadow, Single, Split
from clipper_platform.core.selection.policy import Policy
from clipper_platform.core.selection.weights import Exp3, Exp4

__all__ = ["POLICIES", "policy_named"]

_WHERE: Final = "policy_options"
_MODEL: Final = {"model": Rule(str)}
_PRIOR: Final = {"prior_strength": Rule(float, low=0, high=1e9)}
_DISCOUNT: Final = {"discount": Rule(float, above=0, high=1)}
_WEIGHTED: Final = {"learning_rate": Rule(float, above=0, high=100), "share": Rule(float, low=0, high=1)}


@dataclass(frozen=True, slots=True)
class _Kind:
    """A policy and the options that it takes; `ensemble`: it also takes how answers are combined."""

    policy: type[Policy]
    rules: Mapping[str, Rule] = field(default_factory=dict)
    ensemble: bool = False


_KINDS: Final = {
    kind.policy.name: kind
    for kind in (
        _Kind(Single, _MODEL),
        _Kind(Split),
        _Kind(Shadow, _MODEL | {"sample": Rule(float, low=0, high=1)}),
        _Kind(EpsilonGreedy, _PRIOR | _DISCOUNT | {"epsilon": Rule(float, low=0, high=1)}),
        _Kind(Ucb1, _PRIOR | _DISCOUNT | {"exploration": Rule(float, low=0, high=100)}),
        _Kind(Thompson, _PRIOR | _DISCOUNT | {"family": Rule(str, choices=FAMILIES)}),
        _Kind(Exp3, _PRIOR | _WEIGHTED | {"exploration": Rule(float, low=0, high=1)}),
        _Kind(Exp4, _PRIOR | _WEIGHTED | {"combine_by": Rule(str, choices=COMBINERS)}, ensemble=True),
        _Kind(Majority, ensemble=True),
        _Kind(Mean, ensemble=True),
    )
}

POLICIES: Final = tuple(_KINDS)
"""The names of all policies."""


def policy_named(
    name: str, options: Mapping[str, Any], *, loss: str = ZERO_ONE, loss_scale: float = 1.0
) -> SelectionPolicy:
    """The policy of this name. `loss` and `loss_scale` are the application's: of a loss by difference, `exp4` gives the
    weighted mean, and how far answers agree is measured by the scale. Raises SpecError (a ValueError)."""
    kind = _KINDS.get(name)
    if kind is None:
        guess = nearest(str(name), POLICIES)
        hint = f"did you mean {guess!r}?" if guess else f"there are {', '.join(POLICIES)}"
        raise SpecError(f"policy = {shown(name)} is not known; {hint}", key="policy")
    given = dict(options)
    made: dict[str, Any] = {}
    if kind.policy is Split and "weights" in given:
        made["weights"] = _weights(given.pop("weights"))
    made |= checked(given, kind.rules, _WHERE, also=("weights",) if kind.policy is Split else ())
    if kind.ensemble:
        made.setdefault("scale", loss_scale)
    if kind.policy is Exp4:
        made.setdefault("combine_by", MEAN if loss in (ABSOLUTE, SQUARED) else MAJORITY)
    return kind.policy(**made)


def _weights(value: object) -> dict[str, float]:
    """Weights by model: none negative, 1 in sum."""

    def refuse(why: str) -> SpecError:
        return SpecError(f"weights = {shown(value)} is not allowed: {why}", where=_WHERE, key="weights")

    if not isinstance(value, Mapping) or not value:
        raise refuse('it must be a table of models and numbers, as {"p/f" = 0.9, "p/g" = 0.1}')
    rule = Rule(float, low=0, high=1)
    weights = {str(model): rule.check(f"weights[{shown(model)}]", w, _WHERE) for model, w in value.items()}
    total = math.fsum(weights.values())
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        raise refuse(f"the weights must sum to 1, and these sum to {total:g}")
    return weights
