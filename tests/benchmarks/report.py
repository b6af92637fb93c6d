"""The report: targets first, then each section, then what it was measured on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.section import Section, Verdict, labels, table

__all__ = ["render", "write"]

# Above this share of the machine, others' work shows in the numbers.
NOISY = 0.1


def render(sections: Sequence[Section], facts: Mapping[str, str], failures: Mapping[str, str]) -> str:
    """The whole report as Markdown."""
    parts = ["# Benchmarks", labels(facts)]
    if (note := _noise(sections)) is not None:
        parts.append(note)
    verdicts = [verdict for section in sections for verdict in section.verdicts]
    if verdicts:
        parts += ["## Targets", targets(verdicts)]
    for section in sections:
        parts += [f"## {section.title}", section.markdown]
    if failures:
        parts += ["## Not measured", labels(failures)]
    return "\n\n".join(parts) + "\n"


def targets(verdicts: Sequence[Verdict]) -> str:
    words = {True: "met", False: "missed", None: ""}
    return table(["", "target", "measured", ""], [[v.what, v.target, v.measured, words[v.met]] for v in verdicts])


def _noise(sections: Sequence[Section]) -> str | None:
    foreign = [share for section in sections for share in section.foreign]
    if not foreign:
        return None
    middle = median(foreign)
    note = f"Other processes used {middle:.0%} of the machine meanwhile (median; {max(foreign):.0%} at most)."
    return note + (" That affects the numbers: read the ratios." if middle > NOISY else "")


def write(out: Path, sections: Sequence[Section], text: str, data: Mapping[str, Any]) -> list[Path]:
    """report.md, results.json and the sections' files, in `out`; their paths."""
    out.mkdir(parents=True, exist_ok=True)
    files = {name: content for section in sections for name, content in section.files.items()}
    files |= {"report.md": text, "results.json": json.dumps(data, indent=1, sort_keys=True) + "\n"}
    for name, content in files.items():
        (out / name).write_text(content, encoding="utf-8")
    return [out / name for name in sorted(files)]
