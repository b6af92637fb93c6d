"""What a deploy reports of a build that failed: uv's explanation, without credentials, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from clipper.contract.requirements import mask
from clipper_platform.environments.uv import explain, hint_for
from clipper_platform.errors import DeployFailed

__all__ = ["LOG_LINES", "SCRATCH", "clash", "failed"]

LOG_LINES = 60
SCRATCH = ".installing"
"""A directory in an environment while its packages are installed; uv's messages name files in it."""


def clash(runtime: Sequence[str], lines: Sequence[str]) -> DeployFailed:
    needed = " and ".join(runtime)
    return DeployFailed(
        f"the requirements clash with packages that every function needs, {needed}: {explain(_masked(lines))}",
        phase="environment",
        log=_masked(lines)[-LOG_LINES:],
        hint=f"the runtime beside your code uses {needed}: ask for versions that allow these",
    )


def _masked(lines: Iterable[str]) -> list[str]:
    """uv's output without credentials and without the names of files that are deleted by the time of reading."""
    return [re.sub(rf"(\S*/)?{re.escape(SCRATCH)}/[\w.-]+", "requirements", mask(line)) for line in lines]


def failed(lines: Sequence[str]) -> DeployFailed:
    output = _masked(lines)
    explanation = explain(output)
    return DeployFailed(
        f"the environment cannot be built: {explanation}",
        phase="environment",
        log=output[-LOG_LINES:],
        hint=hint_for(explanation),
    )
