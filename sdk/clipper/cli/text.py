"""Formats sizes, durations and times for people, and parses the times that they write. Pure functions."""

from __future__ import annotations

import os
import re
from datetime import datetime
from typing import Any

__all__ = [
    "ago",
    "as_typed",
    "bar",
    "clean",
    "clock",
    "duration",
    "one_line",
    "parse_since",
    "plural",
    "scalar",
    "size",
    "stamp",
]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SINCE = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\Z")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def clean(text: object) -> str:
    """`text` without control sequences: colours are removed, other control characters are escaped.

    For log lines and error messages of user code and build tools; tabs and line breaks stay.
    """
    stripped = _ANSI.sub("", str(text).replace("\r\n", "\n"))
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", stripped)


def one_line(text: object) -> str:
    """`clean(text)` with its line breaks and runs of blanks as single blanks: for a table's cell."""
    return " ".join(clean(text).split())


def size(count: float | None) -> str:
    """1536 → "1.5 KiB"; None → "–"."""
    if count is None:
        return "–"
    value = float(count)
    for unit in _UNITS[:-1]:
        if value < 1023.95:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_UNITS[-1]}"


def duration(seconds: float | None) -> str:
    """0.0042 → "4.2 ms", 12.34 → "12.3 s", 125 → "2 min 5 s", 7260 → "2 h 1 min"; None → "–"."""
    if seconds is None:
        return "–"
    if seconds < 0.9995:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.0995 else f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, word, smaller, small_word in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {word}" + (f" {rest} {small_word}" if rest else "")
    return f"{whole} s"


def bar(share: float, width: int = 10) -> str:
    """A share of 1 as a bar of `width` characters: 0.55 → "█████▌    "."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    partial = " ▏▎▍▌▋▊▉"[eighths % 8]
    return ("█" * (eighths // 8) + partial.strip()).ljust(width)


def ago(moment: float | None, now: float) -> str:
    """How long before `now` (both Unix seconds) `moment` was: "just now", "5 min ago"; None → "–"."""
    if moment is None:
        return "–"
    passed = now - moment
    if passed < 5:
        return "just now"
    for unit, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= unit:
            return f"{int(passed // unit)} {word} ago"
    return f"{int(passed)} s ago"


def clock(moment: float) -> str:
    """Local time of day with milliseconds: "14:03:07.123"."""
    return datetime.fromtimestamp(moment).strftime("%H:%M:%S.%f")[:-3]


def stamp(moment: float | None) -> str:
    """Local date and time: "2026-01-31 14:03:07"; None → "–"."""
    return "–" if moment is None else datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M:%S")


def plural(count: int, word: str) -> str:
    """3, "file" → "3 files"; 1, "file" → "1 file"."""
    if count == 1:
        return f"1 {word}"
    return f"{count} {word[:-1]}ies" if word.endswith("y") else f"{count} {word}s"


def parse_since(text: str, now: float) -> float:
    """The Unix time meant by "10m", "2h", "1.5d", an ISO date ("2026-01-31T14:00", local without an offset)
    or Unix seconds. Raises ValueError that names the allowed forms."""
    word = text.strip()
    if found := _SINCE.match(word):
        return now - float(found.group(1)) * _SECONDS[found.group(2)]
    if re.fullmatch(r"\d{9,11}(\.\d+)?", word):
        return float(word)
    try:
        moment = datetime.fromisoformat(word)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time: write an age as in 30s, 10m, 2h or 1d, a date as in 2026-01-31T14:00, "
            "or Unix seconds"
        ) from None
    return moment.timestamp()


def scalar(value: Any) -> str:
    """A configuration value as TOML would spell it; None is "not set"."""
    import json

    if value is None:
        return "not set"
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    return json.dumps(value, ensure_ascii=False)


def as_typed(argument: str) -> str:
    """An argument that was typed as UTF-8, also where the locale has another encoding. Raises UnicodeEncodeError for
    bytes that are neither UTF-8 nor of the locale's encoding."""
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        argument.encode()
        return argument
