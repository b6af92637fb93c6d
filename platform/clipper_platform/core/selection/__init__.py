"""Which models answer a query, what their answers make, and what feedback teaches: Clipper's selection policies
(Crankshaw et al., NSDI '17, section 5). Pure: states are values, and randomness is passed in.

| policy | asks | learns |
| --- | --- | --- |
| `single` | the first link, or the one that it names | |
| `split` | one, by fixed weights (A/B) | |
| `shadow` | one; the others are compared with it | |
| `epsilon_greedy`, `ucb1`, `thompson` | one | the mean loss of each |
| `exp3` | one, drawn by weights | a weight of each, from its own losses |
| `exp4` | all, combined by weights | a weight of each, from all losses |
| `majority`, `mean` | all, each counts the same | |

All keep the losses of each model, so that one policy can replace another and goes on with what is known.
"""

from clipper_platform.core.selection.base import Choice, Combined, Explanation, Outlook, SelectionPolicy
from clipper_platform.core.selection.options import POLICIES, policy_named
from clipper_platform.core.selection.state import ModelId, Record, State

__all__ = [
    "POLICIES", "Choice", "Combined", "Explanation", "ModelId", "Outlook", "Record", "SelectionPolicy", "State",
    "policy_named",
]  # fmt: skip
