"""What a build leaves to read, without credentials: uv's explanation of a failure, and where packages came from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from clipper.contract.credentials import mask
from clipper_platform.environments.uv import explain, hint_for
from clipper_platform.errors import DeployFailed

__all__ = ["LOG_LINES", "SCRATCH", "clash", "failed", "mask_addresses", "not_fetched"]

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


def not_fetched(missing: DeployFailed, lines: Sequence[str]) -> DeployFailed:
    """The refusal of a Python that is not here, with why uv could not fetch it."""
    output = _masked(lines)
    cause = next((line for line in reversed(output) if line.strip()), "").strip().removeprefix("cause: ")
    details = {**missing.details, "log": output[-LOG_LINES:]}
    return DeployFailed(f"{missing}; uv could not fetch it: {cause}", **details)


def mask_addresses(environment: Path) -> None:
    """Take the credentials out of what the packages say about where they came from (PEP 610)."""
    for record in environment.glob("lib/python*/site-packages/*.dist-info/direct_url.json"):
        text = record.read_text(encoding="utf-8")
        if mask(text) != text:
            record.unlink()  # it may be a hard link into uv's cache
            record.write_text(mask(text), encoding="utf-8")
