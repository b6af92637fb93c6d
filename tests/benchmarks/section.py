"""What a part of the benchmark is given and what it hands back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.budget import Budget, Plan
from tests.benchmarks.display import Display
from tests.benchmarks.peers import Peer, PeerEnvironment

__all__ = ["Bench", "Section", "Verdict", "count", "milliseconds", "table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """`work`: a folder for this run's files, gone afterwards; `out`: the one for what is kept."""

    plan: Plan
    budget: Budget
    display: Display
    work: Path
    out: Path
    peers: Sequence[Peer]
    environment: PeerEnvironment


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A number beside what it should be. `met` is None where it could not be measured."""

    what: str
    target: str
    measured: str
    met: bool | None

    @classmethod
    def at_least(cls, what: str, value: float | None, target: float, unit: str = "×") -> Verdict:
        return cls._of(what, value, f"≥ {target:g}{unit}", unit, value is not None and value >= target)

    @classmethod
    def at_most(cls, what: str, value: float | None, target: float, unit: str = "×") -> Verdict:
        return cls._of(what, value, f"≤ {target:g}{unit}", unit, value is not None and value <= target)

    @classmethod
    def _of(cls, what: str, value: float | None, target: str, unit: str, met: bool) -> Verdict:
        if value is None:
            return cls(what=what, target=target, measured="not measured", met=None)
        return cls(what=what, target=target, measured=f"{value:.2f}{unit}", met=met)


@dataclass(slots=True, kw_only=True)
class Section:
    """`markdown` without the title; `files` are written beside the report; `data` goes to results.json."""

    title: str
    markdown: str
    verdicts: list[Verdict] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    foreign: list[float] = field(default_factory=list)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table whose first `left` columns are words and the others numbers."""
    ruler = ["---" if column < left else "---:" for column in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ruler, *rows))


def count(value: float) -> str:
    """12345.6 → "12,346", 8.24 → "8.2"."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def milliseconds(seconds: float) -> str:
    """0.0001234 → "0.123", 0.0123 → "12.3", 1.234 → "1,234"."""
    value = seconds * 1000
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def demoted(markdown: str, by: int = 1) -> str:
    """The headings of another report, so many levels further down."""
    return re.sub(r"^(#+) ", lambda found: "#" * (len(found[1]) + by) + " ", markdown, flags=re.MULTILINE)


def labels(values: Mapping[str, str]) -> str:
    """Facts as a list of Markdown."""
    return "\n".join(f"- {name}: {value}" for name, value in values.items())
