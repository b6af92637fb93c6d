"""`python -m tests.benchmarks.selection_experiment [--quick] [--plot FILE.svg]`: the Clipper paper's experiment (5.3).

Five classifiers of scikit-learn's digits answer 20,000 queries, each of which gets its feedback before the next. The
best one is degraded at 5,000 and restored at 10,000. Then 20 users, half of whom write only the digits 0 to 4 and the
others only 5 to 9, have a state each. Prints Markdown: the wrong answers of each policy, mean of five seeds (`--quick`:
one), and their regret against the best fixed model. The classifiers' predictions are committed;
`tests/benchmarks/digits_training.py` makes them anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tests.benchmarks.selection_plot import Course, Panel, selection_plot
from tests.support.selection_experiment import (
    GENERAL_AND_SPECIALISTS,
    MODELS,
    QUERIES,
    Query,
    by_context,
    degraded,
    errors,
    make,
    play,
)

Options = Mapping[str, Any]
POLICIES: tuple[tuple[str, str, Options, str], ...] = (
    ("exp3", "exp3", {}, "blue"),
    ("exp4", "exp4", {}, "green"),
    ("thompson", "thompson", {}, "violet"),
    ("thompson, discount 0.999", "thompson", {"discount": 0.999}, "violet"),
    ("ucb1", "ucb1", {}, "teal"),
    ("ucb1, exploration 0.2, discount 0.999", "ucb1", {"exploration": 0.2, "discount": 0.999}, "teal"),
    ("epsilon_greedy", "epsilon_greedy", {}, "orange"),
    ("epsilon_greedy, discount 0.999", "epsilon_greedy", {"discount": 0.999}, "orange"),
    ("majority", "majority", {}, "pink"),
)
DRAWN = ("exp3", "exp4", "thompson, discount 0.999", "ucb1", "epsilon_greedy", "majority")
PERSONAL = ("exp3", "exp4", "thompson")
MARKS = (QUERIES // 4, QUERIES // 2, QUERIES)


def courses(seed: int) -> dict[str, list[int]]:
    """The errors after each query: of each policy, and of each model alone."""
    queries = degraded(seed=seed)
    found = {f"always {model}": errors(model, queries) for model in MODELS}
    for label, name, options, _ in POLICIES:
        found[label] = play(make(name, **options), queries, seed=seed)
    return found


def personal_courses(seed: int) -> dict[str, list[int]]:
    queries: Sequence[Query] = by_context(seed=seed)
    found = {f"always {model}": errors(model, queries) for model in GENERAL_AND_SPECIALISTS}
    for name in PERSONAL:
        found[f"{name}, shared"] = play(make(name), queries, seed=seed)
        found[f"{name}, personal"] = play(make(name), queries, seed=seed, personal=True)
    return found


def table(runs: Sequence[Mapping[str, Sequence[int]]], marks: Sequence[int]) -> str:
    """Rows of mean errors, fewest first, with the regret against the best fixed model."""
    fixed = fmean(min(run[name][-1] for name in run if name.startswith("always")) for run in runs)
    at = {name: [fmean(run[name][mark - 1] for run in runs) for mark in marks] for name in runs[0]}
    heads = " | ".join(f"after {mark:,}" for mark in marks)
    lines = [f"| policy | {heads} | error rate | regret |", "| --- |" + " ---: |" * (len(marks) + 2)]
    for name, found in sorted(at.items(), key=lambda row: row[1][-1]):
        cells = " | ".join(f"{value:,.0f}" for value in found)
        lines.append(f"| {name} | {cells} | {found[-1] / marks[-1]:.1%} | {found[-1] - fixed:+,.0f} |")
    return "\n".join(lines)


def plot(run: Mapping[str, Sequence[int]], personal: Mapping[str, Sequence[int]]) -> str:
    colours = {label: colour for label, _, _, colour in POLICIES}
    first = [Course(name, colours[name], run[name]) for name in DRAWN]
    first += [Course(f"always {m}", "grey", run[f"always {m}"], fixed=True) for m in ("logistic", "svm", "centroid")]
    second = [
        Course(f"{name}, {kind}", colour, personal[f"{name}, {kind}"])
        for name, kind, colour in (
            ("exp3", "shared", "blue"),
            ("exp3", "personal", "violet"),
            ("exp4", "shared", "green"),
            ("exp4", "personal", "teal"),
        )
    ]
    second.append(Course("always centroid", "grey", personal["always centroid"], fixed=True))
    band = (QUERIES // 4, QUERIES // 2, "svm is degraded")
    return selection_plot(
        [
            Panel("Five models, the best of which is degraded and restored", first, 300, 3000, band),
            Panel("Twenty users who need different models: a state for all, or for each", second, 200, 2800),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed instead of five")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the first seed's run")
    given = parser.parse_args()
    seeds = range(1 if given.quick else 5)
    runs, personal = [courses(seed) for seed in seeds], [personal_courses(seed) for seed in seeds]
    print(f"## The best model is degraded at {MARKS[0]:,} and restored at {MARKS[1]:,}: wrong answers\n")
    print(table(runs, MARKS))
    print("\n## Twenty users who need different models: wrong answers\n")
    print(table(personal, MARKS))
    if given.plot is not None:
        given.plot.write_text(plot(runs[0], personal[0]), encoding="utf-8")


if __name__ == "__main__":
    main()
