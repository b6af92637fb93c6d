"""The plot of the selection experiment, as SVG written by hand: one file, no script, legible on light and on dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Course", "Panel", "selection_plot"]

WIDTH, LEFT, RIGHT, TOP = 960, 72, 236, 64
GAP, BOTTOM = 78, 40
LABEL_HEIGHT = 15

STYLE = """
text { font: 13px system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', sans-serif; fill: #1f2328 }
.title { font-size: 18px; font-weight: 600 } .panel { font-weight: 600 } .small { font-size: 11px }
.dim { fill: #59636e } .page { fill: #ffffff } .grid { stroke: #d8dee4 } .base { stroke: #8c959f }
.band { fill: #cf222e; opacity: .08 } .line { fill: none; stroke-width: 1.8; stroke-linejoin: round }
.fixed { stroke-dasharray: 5 4; stroke-width: 1.4 } .lead { stroke-width: 0.8; fill: none; opacity: .6 }
.grey { stroke: #6e7781 } .blue { stroke: #0f6fde } .green { stroke: #2da44e } .orange { stroke: #d9822b }
.violet { stroke: #8250df } .red { stroke: #cf222e } .teal { stroke: #1b7c83 } .pink { stroke: #bf3989 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .dim { fill: #9198a1 } .page { fill: #0d1117 } .grid { stroke: #2a3038 }
  .base { stroke: #6e7681 } .band { fill: #ff7b72; opacity: .14 }
  .grey { stroke: #8b949e } .blue { stroke: #58a6ff } .green { stroke: #3fb950 } .orange { stroke: #e3963e }
  .violet { stroke: #bc8cff } .red { stroke: #ff7b72 } .teal { stroke: #56d4dd } .pink { stroke: #f778ba }
}
""".strip()


@dataclass(frozen=True, slots=True)
class Course:
    """The number of errors after each query. `fixed`: of one model, drawn dashed."""

    name: str
    colour: str
    errors: Sequence[int]
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """`band`: from which query until which something was wrong, and what. Above `highest` nothing is drawn."""

    title: str
    courses: Sequence[Course]
    height: int
    highest: int
    band: tuple[int, int, str] | None = None


def selection_plot(panels: Sequence[Panel]) -> str:
    """Panels one above the other: errors so far by the number of queries, with the names at the ends of the lines."""
    parts, y = [], TOP + 40
    for panel in panels:
        parts += _panel(panel, y)
        y += panel.height + GAP
    height = y - GAP + BOTTOM
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"',
            '  aria-label="Errors of selection policies while a model is degraded, and with contexts">',
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>',
            _text(24, 34, "Choosing among classifiers of digits by feedback", "title"),
            _text(
                24, 54, "Wrong answers so far, by queries (lower is better); dashed: always the same model", "small dim"
            ),
            *parts,
            "</svg>\n",
        ]
    )


def _panel(panel: Panel, top: int) -> list[str]:
    queries = max(len(course.errors) for course in panel.courses)
    width, bottom = WIDTH - LEFT - RIGHT, top + panel.height

    def x(query: float) -> float:
        return LEFT + width * query / queries

    def y(errors: float) -> float:
        return bottom - panel.height * errors / panel.highest

    parts = [_text(24, top - 14, panel.title, "panel")]
    if panel.band is not None:
        begin, end, what = panel.band
        parts.append(f'<rect class="band" x="{x(begin):.1f}" y="{top}" width="{x(end) - x(begin):.1f}" '
                     f'height="{panel.height}"/>')  # fmt: skip
        parts.append(_text(x((begin + end) / 2), top + 14, what, "small dim", "middle"))
    for step in range(5):
        errors = panel.highest * step / 4
        css = "base" if step == 0 else "grid"
        parts.append(f'<line class="{css}" x1="{LEFT}" x2="{LEFT + width}" y1="{y(errors):.1f}" y2="{y(errors):.1f}"/>')
        parts.append(_text(LEFT - 8, y(errors) + 4, f"{errors:,.0f}", "small dim", "end"))
        parts.append(_text(x(queries * step / 4), bottom + 18, f"{queries * step // 4:,}", "small dim", "middle"))
    ends = _spread([y(min(course.errors[-1], panel.highest)) for course in panel.courses])
    for course, end in zip(panel.courses, ends, strict=True):
        kept = [(n, errors) for n, errors in enumerate(course.errors, 1) if errors <= panel.highest]
        shown = [point for point in kept if point[0] % (queries // 200) == 0] or kept
        path = " L".join(f"{x(n):.1f} {y(errors):.1f}" for n, errors in [(0, 0), *shown])
        css = f"line {course.colour}" + (" fixed" if course.fixed else "")
        parts.append(f'<path class="{css}" d="M{path}"/>')
        last, right = y(min(course.errors[-1], panel.highest)), LEFT + width
        parts.append(f'<path class="lead {course.colour}" d="M{right} {last:.1f} L{right + 14} {end:.1f}"/>')
        parts.append(_text(right + 18, end + 4, f"{course.name}  {course.errors[-1]:,}", "small"))
    return parts


def _spread(wanted: Sequence[float]) -> list[float]:
    """The places of the labels: as near as can be to the wanted ones, and none over another."""
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    placed = [wanted[number] for number in order]
    for _ in range(100):
        for upper in range(len(placed) - 1):
            overlap = LABEL_HEIGHT - (placed[upper + 1] - placed[upper])
            if overlap > 0:
                placed[upper] -= overlap / 2
                placed[upper + 1] += overlap / 2
    found = dict(zip(order, placed, strict=True))
    return [found[number] for number in range(len(wanted))]


def _text(x: float, y: float, text: str, css: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'
