"""The plot of throughput and latency, as SVG written by hand: one file, no script, readable on light and on dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "throughput_plot"]

WIDTH = 960
LABEL_X, BARS_X, BARS_WIDTH = 168, 176, 300
AXIS_X, AXIS_WIDTH = 630, 300
ROW, BAR, GAP, TOP = 24, 15, 58, 92

# Colours: ours in one family, the floor in grey, peers in another. Each pair is for light and for dark.
STYLE = """
text { font: 13px system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', sans-serif; fill: #1f2328 }
.title { font-size: 18px; font-weight: 600 } .panel { font-weight: 600 } .small { font-size: 11px }
.dim { fill: #59636e } .page { fill: #ffffff } .grid { stroke: #d1d9e0; stroke-width: 1 }
.clipper { fill: #0f6fde; stroke: #0f6fde } .cached { fill: #3aa0ff; stroke: #3aa0ff }
.asgi { fill: #9cc9f5; stroke: #9cc9f5 } .uvicorn { fill: #8b949e; stroke: #8b949e }
.peer { fill: #d9822b; stroke: #d9822b } .span { stroke-width: 3; stroke-linecap: round; opacity: .45 }
.bar { stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .dim { fill: #9198a1 } .page { fill: #0d1117 } .grid { stroke: #30363d }
  .clipper { fill: #4493f8; stroke: #4493f8 } .cached { fill: #79c0ff; stroke: #79c0ff }
  .asgi { fill: #2f5e93; stroke: #2f5e93 } .uvicorn { fill: #6e7681; stroke: #6e7681 }
  .peer { fill: #db8b3c; stroke: #db8b3c }
}
""".strip()

OURS = ("clipper", "cached", "asgi", "uvicorn")


@dataclass(frozen=True, slots=True)
class Bar:
    """One server at one number of connections. `ratio`: Clipper's throughput by this one's."""

    key: str
    name: str
    rate_per_s: float
    p50_s: float
    p99_s: float
    ratio: float | None


def throughput_plot(panels: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """A panel for each number of connections: bars of requests per second, and beside them p50 to p99 on a log axis."""
    every = [bar for _, bars in panels for bar in bars]
    axis = _LogAxis([value for bar in every for value in (bar.p50_s, bar.p99_s)])
    y, parts = TOP, []
    for title, bars in panels:
        parts += _panel(title, bars, axis, y)
        y += len(bars) * ROW + GAP
    height = y - GAP + 62
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"',
            '  aria-label="Throughput and latency of Clipper and of other servers, by connections">',
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>',
            _text(24, 36, "Ten floats in, their sum out", "title"),
            _text(24, 56, "JSON over HTTP, batches of at most 32, one worker, all on one machine", "small dim"),
            _text(BARS_X, TOP - 12, "requests per second (longer is better)", "small dim"),
            _text(AXIS_X, TOP - 12, "latency, p50 to p99 (further left is better)", "small dim"),
            *parts,
            _text(BARS_X, height - 18, "×: Clipper's requests per second by theirs, in the same round", "small dim"),
            "</svg>\n",
        ]
    )


class _LogAxis:
    """Whole decades around the values, over AXIS_WIDTH."""

    def __init__(self, values_s: Iterable[float]) -> None:
        found = [value for value in values_s if value > 0] or [0.001]
        self.low = math.floor(math.log10(min(found)))
        self.high = max(self.low + 1, math.ceil(math.log10(max(found))))

    def x(self, seconds: float) -> float:
        share = (math.log10(max(seconds, 10.0**self.low)) - self.low) / (self.high - self.low)
        return AXIS_X + AXIS_WIDTH * min(1.0, share)

    def decades(self) -> range:
        return range(self.low, self.high + 1)


def _panel(title: str, bars: Sequence[Bar], axis: _LogAxis, y: int) -> list[str]:
    longest = max((bar.rate_per_s for bar in bars), default=1.0)
    bottom = y + len(bars) * ROW + 22
    parts = [
        _text(24, y + 10, title, "panel"),
        *(_text(axis.x(10.0**d), y + 8, _decade(d), "small dim", anchor="middle") for d in axis.decades()),
        *(
            f'<line class="grid" x1="{axis.x(10.0**d):.1f}" x2="{axis.x(10.0**d):.1f}" y1="{y + 14}" y2="{bottom}"/>'
            for d in axis.decades()
        ),
    ]
    for number, bar in enumerate(bars):
        parts += _row(bar, longest, axis, y + 22 + number * ROW)
    return parts


def _row(bar: Bar, longest: float, axis: _LogAxis, y: int) -> list[str]:
    kind = bar.key if bar.key in OURS else "peer"
    middle = y + BAR / 2
    length = max(1.5, BARS_WIDTH * bar.rate_per_s / longest)
    ratio = "" if bar.ratio is None or bar.key == "clipper" else f" · {_ratio(bar.ratio)}"
    left, right = axis.x(bar.p50_s), axis.x(bar.p99_s)
    return [
        _text(LABEL_X, y + 12, bar.name, "", anchor="end"),
        f'<rect class="{kind} bar" x="{BARS_X}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>',
        _text(BARS_X + length + 6, y + 12, f"{bar.rate_per_s:,.0f}{ratio}", "small"),
        f'<line class="{kind} span" x1="{left:.1f}" x2="{right:.1f}" y1="{middle}" y2="{middle}"/>',
        f'<circle class="{kind}" cx="{left:.1f}" cy="{middle}" r="4.5"/>',
        f'<line class="{kind}" stroke-width="3" x1="{right:.1f}" x2="{right:.1f}" y1="{y + 2}" y2="{y + BAR - 2}"/>',
    ]


def _ratio(ratio: float) -> str:
    """Clipper's throughput by another's, for people: "2.1×" of it, with a second digit where that is near 1."""
    return f"{ratio:.2f}×" if ratio < 2 else f"{ratio:.1f}×" if ratio < 20 else f"{ratio:.0f}×"


def _decade(power: int) -> str:
    """10 to this power seconds, in words."""
    words = {-6: "1 µs", -5: "10 µs", -4: "0.1 ms", -3: "1 ms", -2: "10 ms", -1: "0.1 s", 0: "1 s", 1: "10 s"}
    return words.get(power, f"1e{power} s")


def _text(x: float, y: float, text: str, css: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'
