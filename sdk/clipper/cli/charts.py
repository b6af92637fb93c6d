"""Time series as SVG: panels one above the other with a common time axis. Pure functions, standard library only.

The file has no script and is legible on light and on dark: a style sheet has two sets of colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Line", "Panel", "draw"]

_WIDTH, _LEFT, _RIGHT, _TOP = 800, 64, 24, 64
_PANEL, _GAP, _BOTTOM = 92, 46, 40
_CHARACTER = 6.2  # average width of a character in 12 px, to place the legend
_STEPS = 8  # labels of the time axis at most

# The first line of a panel is the main one and drawn on top.
_STYLE = """
text { font: 12px system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', sans-serif; fill: #1f2328 }
.title { font-size: 17px; font-weight: 600 } .panel { font-size: 13px; font-weight: 600 }
.dim { font-size: 11px; fill: #59636e } .page { fill: #ffffff } .grid { stroke: #d8dee4; stroke-width: 1 }
.base { stroke: #8c959f; stroke-width: 1 } .rule { stroke: #cf222e; stroke-width: 1.3; stroke-dasharray: 6 4 }
.line { fill: none; stroke-width: 1.7; stroke-linejoin: round } .area { stroke: none; opacity: .13 }
.c0 { stroke: #0f6fde } .c1 { stroke: #d9822b } .c2 { stroke: #2da44e } .c3 { stroke: #8250df }
.f0 { fill: #0f6fde } .f1 { fill: #d9822b } .f2 { fill: #2da44e } .f3 { fill: #8250df }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .dim { fill: #9198a1 } .page { fill: #0d1117 } .grid { stroke: #2a3038 }
  .base { stroke: #6e7681 } .rule { stroke: #ff7b72 } .area { opacity: .2 }
  .c0 { stroke: #58a6ff } .c1 { stroke: #e3963e } .c2 { stroke: #3fb950 } .c3 { stroke: #bc8cff }
  .f0 { fill: #58a6ff } .f1 { fill: #e3963e } .f2 { fill: #3fb950 } .f3 { fill: #bc8cff }
}
""".strip()
_COLOURS = 4


@dataclass(frozen=True, slots=True)
class Line:
    """Values by time, None where there is none. `steps`: a value holds until the next. `area`: tinted below."""

    name: str
    values: Sequence[float | None]
    steps: bool = False
    area: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    lines: Sequence[Line]
    rule: float | None = None  # an objective, drawn as a dashed line
    rule_name: str = "objective"


def draw(title: str, times: Sequence[float], panels: Sequence[Panel], *, subtitle: str = "") -> str:
    """An SVG document. `times` in seconds from 0, ascending; every line has as many values."""
    height = _TOP + len(panels) * (_PANEL + _GAP) + _BOTTOM - _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'role="img"',
        f'  aria-label="{escape(title)}: {escape(", ".join(panel.title for panel in panels))}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{_WIDTH}" height="{height}" rx="8"/>',
        _text(24, 28, title, "title"),
    ]
    if subtitle:
        parts.append(_text(24, 45, subtitle, "dim"))
    axis = _time_axis(times)
    for index, panel in enumerate(panels):
        top = _TOP + 12 + index * (_PANEL + _GAP)
        parts += [_vertical(at, top, times) for at, _ in axis]
        parts += _panel(panel, times, top)
    foot = _TOP + 12 + len(panels) * (_PANEL + _GAP) - _GAP + 18
    parts += [_text(_x(at, times), foot, label, "dim", anchor="middle") for at, label in axis]
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, times: Sequence[float], top: float) -> list[str]:
    known = [v for line in panel.lines for v in line.values if v is not None]
    highest = _round_up(max([*known, (panel.rule or 0.0) * 1.15, 1e-9]))
    out = [_text(24, top - 9, panel.title, "panel")]
    for share in (0.0, 0.5, 1.0):
        y = top + _PANEL * (1 - share)
        out.append(_horizontal(y, "base" if share == 0 else "grid"))
        out.append(_text(_LEFT - 8, y + 4, f"{highest * share:,.4g}", "dim", anchor="end"))
    if panel.rule is not None:
        out.append(_horizontal(top + _PANEL * (1 - panel.rule / highest), "rule"))
    for number, line in reversed([*enumerate(panel.lines)]):
        colour = number % _COLOURS
        for path, first, last in _paths(line, times, top, highest):
            if line.area:
                ground = f"V{top + _PANEL:.1f} H{first:.1f} Z"
                out.append(f'<path class="area f{colour}" d="{path} {ground}"/>')
            # A path of a single value is drawn as a dot.
            dot = f' H{last:.1f}" stroke-linecap="round' if first == last else ""
            out.append(f'<path class="line c{colour}" d="{path}{dot}"/>')
    return out + _legend(panel, top)


def _legend(panel: Panel, top: float) -> list[str]:
    """The names of the lines above the panel, at its right end."""
    shown = [(f"f{number % _COLOURS}", line.name) for number, line in enumerate(panel.lines)]
    out: list[str] = []
    x = float(_WIDTH - _RIGHT)
    if panel.rule is not None:
        name = f"{panel.rule_name} {panel.rule:,.4g}"
        x -= len(name) * _CHARACTER
        out.append(_text(x, top - 9, name, "dim"))
        x -= 22
        out.append(f'<line class="rule" x1="{x:.1f}" x2="{x + 18:.1f}" y1="{top - 13:.1f}" y2="{top - 13:.1f}"/>')
        x -= 14
    for css, name in reversed(shown):
        x -= len(name) * _CHARACTER
        out.append(_text(x, top - 9, name, "dim"))
        x -= 13
        out.append(f'<rect class="{css}" x="{x:.1f}" y="{top - 18:.1f}" width="9" height="9" rx="2"/>')
        x -= 14
    return out


def _paths(line: Line, times: Sequence[float], top: float, highest: float) -> list[tuple[str, float, float]]:
    """One path for each stretch without a gap, with where it begins and ends."""
    paths: list[tuple[str, float, float]] = []
    current, first = "", 0.0
    for at, value in zip(times, line.values, strict=True):
        if value is None:
            current = ""
            continue
        x, y = _x(at, times), top + _PANEL * (1 - value / highest)
        if not current:
            current, first = f"M{x:.1f} {y:.1f}", x
            paths.append((current, first, x))
        else:
            current += f" H{x:.1f} V{y:.1f}" if line.steps else f" L{x:.1f} {y:.1f}"
        paths[-1] = current, first, x
    return paths


def _time_axis(times: Sequence[float]) -> list[tuple[float, str]]:
    """Round times with their labels."""
    span = times[-1]
    unit, name = next((u, n) for u, n in ((3600.0, "h"), (60.0, "min"), (0.0, "s")) if span >= 3 * u)
    unit = unit or 1.0
    steps = (1.0, 2.0, 3.0, 6.0, 12.0, 24.0) if name == "h" else (1.0, 2.0, 5.0, 10.0, 15.0, 30.0)
    step = next((s for s in steps if span / unit / s <= _STEPS), 0.0) if span / unit >= _STEPS / 2 else 0.0
    step = step or _round_up(span / unit / _STEPS)
    return [(i * step * unit, f"{i * step:.4g} {name}") for i in range(int(span / unit / step * (1 + 1e-9)) + 1)]


def _x(at: float, times: Sequence[float]) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at / times[-1]


def _vertical(at: float, top: float, times: Sequence[float]) -> str:
    x = _x(at, times)
    return f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{top + _PANEL:.1f}"/>'


def _horizontal(y: float, css: str) -> str:
    return f'<line class="{css}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _text(x: float, y: float, text: str, css: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 4, 5, 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    factors = (1.0, 2.0, 2.5, 4.0, 5.0, 8.0, 10.0)
    return next(factor * power for factor in factors if value <= factor * power * (1 + 1e-9))
