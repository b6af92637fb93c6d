"""Drawings: what is in them, and that those of the documentation are what the command draws today."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from clipper.cli.charts import Line, Panel, draw
from tests.support.terminal import clip

DOCS = Path(__file__).parents[3] / "infra" / "docs" / "autoscaling"
TEXT = "{http://www.w3.org/2000/svg}text"


def words(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter(TEXT)]


@pytest.mark.parametrize(
    ("span_s", "last", "labels"),
    [
        (2.0, "2 s", 9),
        (30.0, "30 s", 7),
        (600.0, "10 min", 6),
        (7200.0, "120 min", 9),
        (86400.0, "24 h", 9),
        (7 * 86400.0, "168 h", 8),
    ],
)
def test_the_time_axis_has_a_few_round_times(span_s: float, last: str, labels: int) -> None:
    unit = last.partition(" ")[2]
    found = [word for word in words(draw("t", [span_s / 2, span_s], [])) if re.fullmatch(rf"[\d.]+ {unit}", word)]
    assert (found[0], found[-1], len(found)) == (f"0 {unit}", last, labels)


def test_every_colour_has_one_for_light_and_one_for_dark() -> None:
    svg = draw("t", [1.0, 2.0], [Panel("p", [Line(str(n), [1, 2], area=True) for n in range(5)], 3.0)])
    light, dark = svg.partition("@media (prefers-color-scheme: dark)")[::2]
    used = {name for names in re.findall(r'class="([^"]+)"', svg) for name in names.split()}
    assert {"c0", "c3", "f0", "f3", "rule"} <= used
    for name in used - {"line", "area", "title", "panel"}:
        assert f".{name} {{" in light
        assert f".{name} {{" in dark


def test_a_level_to_be_kept_is_in_the_picture_and_named() -> None:
    svg = draw("t", [1.0, 2.0], [Panel("p", [Line("l", [1, 2])], 250.0)], subtitle="below")
    assert {"objective 250", "below", "l"} <= set(words(svg))
    (y,) = {float(found) for found in re.findall(r'class="rule"[^>]* x2="776" y1="([\d.]+)"', svg)}
    top, bottom = 76.0, 76.0 + 92.0
    assert top < y < bottom


def test_a_single_value_is_a_dot() -> None:
    (path,) = re.findall(r'class="line c0" d="([^"]+)" stroke-linecap="round"', draw("t", [1, 2, 3], [
        Panel("p", [Line("l", [None, 5, None])]),
    ]))  # fmt: skip
    assert re.fullmatch(r"M[\d.]+ [\d.]+ H[\d.]+", path)


@pytest.mark.parametrize("pattern", ["ramp", "spike"])
def test_the_documentation_shows_what_the_simulation_draws(pattern: str, tmp_path: Path) -> None:
    """The day takes longer to simulate, and is drawn by the same code."""
    drawn = tmp_path / "out.svg"
    done = clip(
        "policy", "simulate", str(DOCS / "policy.toml"), "--latency-slo", "0.5", "--pattern", pattern,
        "--plot", str(drawn), env={},
    )  # fmt: skip
    assert done.code == 0, done.err
    assert drawn.read_text() == (DOCS / f"{pattern}.svg").read_text(), "draw it again, by the command in policy.toml"


def test_a_line_with_gaps_is_drawn_in_pieces() -> None:
    svg = draw("<t>", [0, 10, 20, 30], [Panel("p & q", [Line("l", [1, None, 2, 3], steps=True)], 2.5)])
    root = ElementTree.fromstring(svg)
    paths = [path.get("d", "") for path in root.iter("{http://www.w3.org/2000/svg}path")]
    assert len(paths) == 2
    assert paths[0].startswith("M")
    assert " H" in paths[1]
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words[:2] == ["<t>", "p & q"]
    assert draw("empty", [1.0], [Panel("none", [Line("l", [None])])])
