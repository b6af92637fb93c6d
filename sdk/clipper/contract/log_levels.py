"""The level of a line of output, from what stands at its beginning: a program's own level, or a traceback."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["LevelReader"]

_HEAD_CHARACTERS: Final = 160  # a level stands behind a time and a name at most
_LEVELS: Final = {
    "TRACE": "DEBUG", "DEBUG": "DEBUG", "D": "DEBUG",
    "INFO": "INFO", "NOTICE": "INFO", "SUCCESS": "INFO", "I": "INFO",
    "WARN": "WARNING", "WARNING": "WARNING", "W": "WARNING",
    "ERR": "ERROR", "ERROR": "ERROR", "SEVERE": "ERROR", "EXCEPTION": "ERROR", "E": "ERROR",
    "CRIT": "CRITICAL", "CRITICAL": "CRITICAL", "FATAL": "CRITICAL", "F": "CRITICAL",
}  # fmt: skip
_WORD: Final = "TRACE|DEBUG|INFO|NOTICE|SUCCESS|WARN|WARNING|ERR|ERROR|SEVERE|CRIT|CRITICAL|FATAL"
# "2026-01-05 10:00:00,123 - name - DEBUG - text", "[12:00:00] INFO text", "INFO:     Started": in capitals, behind a
# time, a name or nothing. What stands before is looked at separately.
_CAPITALS: Final = re.compile(rf"(?<![\w.]){'(' + _WORD + ')'}(?=[\s:\]|)>,-]|$)")
# "warning: text", "[debug] text", "Error: text": in any case, but only as the first word.
_FIRST: Final = re.compile(rf"[\[(<]?({_WORD})[\])>]?(?::|(?<=[\])>])\s)", re.IGNORECASE)
# level=debug, and {"level": "debug"} of structured logs.
_FIELD: Final = re.compile(
    rf"(?:\b(?:level|lvl|severity)=\"?|\"(?:level|levelname|severity)\"\s*:\s*\")({_WORD})\b", re.I
)
# "I0105 12:00:00.000000 …" of glog, and "2026-01-05 12:00:00.000000: W tensorflow/…".
_LETTER: Final = re.compile(
    r"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: )?([IWEF])(?:\d{4} \d\d:\d\d:\d\d|(?<=: [IWEF]) )"
)
_PYTHON_WARNING: Final = re.compile(r"\S+:\d+: \w*Warning: ")
_TRACEBACK: Final = re.compile(r"[\s|+-]*(?:Exception Group )?Traceback \(most recent call last\):")
_CHAINED: Final = ("During handling of the above exception", "The above exception was the direct cause")
_OPENS_ERROR: Final = ("Exception in thread ", "Exception ignored in", "Task exception was never retrieved")


class LevelReader:
    """Reads the lines of one stream in order, because a traceback has several."""

    __slots__ = ("_dying", "_in_traceback", "_usual")

    def __init__(self, usual: str = "INFO") -> None:
        """`usual`: the level of a line that says nothing about it."""
        self._usual = usual
        self._in_traceback = False
        self._dying = False

    def of(self, line: str) -> str:
        """DEBUG, INFO, WARNING, ERROR or CRITICAL."""
        if self._dying or line.startswith("Fatal Python error: "):  # all that follows is faulthandler's report
            self._dying = True
            return "CRITICAL"
        if _TRACEBACK.match(line):
            self._in_traceback = True
            return "ERROR"
        if self._in_traceback:
            # Frames are indented; the exception's own line, which is not, is the last one.
            self._in_traceback = not line or line[0] in " \t"
            return "ERROR"
        if line.startswith((*_CHAINED, *_OPENS_ERROR)):
            return "ERROR"
        return _level(line[:_HEAD_CHARACTERS]) or self._usual


def _level(head: str) -> str | None:
    found = _FIRST.match(head) or _FIELD.search(head) or _LETTER.match(head)
    if found is None:
        found = _CAPITALS.search(head)
        if found is not None and not _is_header(head[: found.start()]):
            found = None
    if found is not None:
        return _LEVELS[found[1].upper()]
    return "WARNING" if _PYTHON_WARNING.match(head) else None


def _is_header(before: str) -> bool:
    """Whether a level may follow: nothing, a separator or a bracket, or only words with digits, such as times."""
    before = before.rstrip()
    return not before or before[-1] in "-|:[](<),>=" or all(any(map(str.isdigit, word)) for word in before.split())
