"""Lines over time as SVG: panels one above the other with a common time axis. Pure functions, standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Line", "Panel", "draw"]

_WIDTH, _LEFT, _RIGHT, _TOP = 760, 64, 16, 28
_PANEL, _GAP = 110, 34
_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea")


@dataclass(frozen=True, slots=True)
class Line:
    """Values by time, None where there is none. `steps`: a value holds until the next."""

    name: str
    values: Sequence[float | None]
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    lines: Sequence[Line]
    rule: float | None = None  # a level to be kept, as a dashed line


def draw(title: str, times: Sequence[float], panels: Sequence[Panel]) -> str:
    """An SVG document. `times` in seconds from 0, ascending; every line has as many values."""
    height = _TOP + len(panels) * (_PANEL + _GAP) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#334155">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="16" font-size="13" font-weight="600">{escape(title)}</text>',
    ]
    for index, panel in enumerate(panels):
        parts += _panel(panel, times, _TOP + index * (_PANEL + _GAP) + 14)
    parts += _time_axis(times, height - 22)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, times: Sequence[float], top: float) -> list[str]:
    known = [v for line in panel.lines for v in line.values if v is not None]
    highest = _round_up(max([*known, panel.rule or 0.0, 1e-9]))
    out = [f'<text x="{_LEFT}" y="{top - 4}" font-weight="600">{escape(panel.title)}</text>']
    for share in (0.0, 0.5, 1.0):
        y = top + _PANEL * (1 - share)
        out.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e8f0"/>')
        out.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{highest * share:.4g}</text>')
    if panel.rule is not None:
        y = top + _PANEL * (1 - panel.rule / highest)
        out.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dc2626" '
            'stroke-dasharray="5 4"/>'
        )
    for line, colour, place in zip(panel.lines, _COLOURS, range(len(panel.lines)), strict=False):
        out += [
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
            for path in _paths(line, times, top, highest)
        ]
        x = _WIDTH - _RIGHT - 90 * (len(panel.lines) - place)
        out.append(f'<rect x="{x}" y="{top - 13}" width="10" height="10" fill="{colour}"/>')
        out.append(f'<text x="{x + 14}" y="{top - 4}">{escape(line.name)}</text>')
    return out


def _paths(line: Line, times: Sequence[float], top: float, highest: float) -> list[str]:
    """One path for each stretch without a gap."""
    paths: list[str] = []
    current = ""
    for at, value in zip(times, line.values, strict=True):
        if value is None:
            current = ""
            continue
        x, y = _x(at, times), top + _PANEL * (1 - value / highest)
        if not current:
            paths.append("")
            current = f"M{x:.1f} {y:.1f}"
        else:
            current += f" H{x:.1f} V{y:.1f}" if line.steps else f" L{x:.1f} {y:.1f}"
        paths[-1] = current
    return paths


def _time_axis(times: Sequence[float], y: float) -> list[str]:
    span = times[-1]
    unit, name = next((u, n) for u, n in ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (0.0, "s")) if span >= 3 * u)
    unit = unit or 1.0
    step = _round_up(span / unit / 8)
    count = int(span / unit / step) + 1
    return [
        f'<text x="{_x(i * step * unit, times):.1f}" y="{y}" text-anchor="middle">{i * step:.4g} {name}</text>'
        for i in range(count)
    ]


def _x(at: float, times: Sequence[float]) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at / times[-1]


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if value <= factor * power * (1 + 1e-9))
