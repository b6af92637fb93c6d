"""The experiment's report and its plot, on a few queries."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

from tests.benchmarks.selection_experiment import table
from tests.benchmarks.selection_plot import Course, Panel, selection_plot


def test_the_table_has_the_fewest_errors_first_and_the_regret_against_the_best_fixed_model() -> None:
    runs = [
        {"always a": [1, 2], "always b": [0, 4], "exp3": [1, 3]},
        {"always a": [1, 2], "always b": [1, 2], "exp3": [0, 1]},
    ]
    assert table(runs, (1, 2)).splitlines() == [
        "| policy | after 1 | after 2 | error rate | regret |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| always a | 1 | 2 | 100.0% | +0 |",
        "| exp3 | 0 | 2 | 100.0% | +0 |",
        "| always b | 0 | 3 | 150.0% | +1 |",
    ]


def test_the_plot_names_every_course_and_no_two_labels_overlap() -> None:
    courses = [Course(f"policy <{n}>", "blue", list(range(1, 201))) for n in range(4)]
    svg = selection_plot([Panel("a & b", courses, 100, 150, (50, 100, "band"))])
    texts = {
        text.text or "": float(text.attrib["y"])
        for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    }
    places = sorted(y for name, y in texts.items() if name.startswith("policy <"))
    assert len(places) == 4
    assert all(below - above > 14 for above, below in pairwise(places))
    assert {"a & b", "band"} <= set(texts)
