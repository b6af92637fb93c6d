"""Finds the place of an error in the user's own files, from the tracebacks of replicas."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Locator", "Place"]

# A replica runs the unpacked bundle, below bundles/trees/DIGEST.
_FRAME = re.compile(
    r'^(?P<lead>\s*(?:[|+-]\s*)*)File "(?P<root>[^"]*/bundles/trees/[0-9a-f]{64}/)(?P<file>[^"]+)", line (?P<line>\d+)'
    r"(?:, in (?P<function>.+))?"
)
_TREE = re.compile(r"[^\s\"']*/bundles/trees/[0-9a-f]{64}/")
_RAISED = re.compile(r"^(?:[A-Za-z_][\w]*\.)*[A-Z_a-z]\w*(?:: .*)?$")


@dataclass(frozen=True, slots=True)
class Place:
    """`file` is relative to the project; `message` is the last line of the traceback."""

    file: str
    line: int
    function: str
    message: str

    def __str__(self) -> str:
        where = f" in {self.function}" if self.function else ""
        return f"{self.file}:{self.line}{where}: {self.message}"


class Locator:
    """Reads the lines of one log in order."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._frame: tuple[str, int, str] | None = None
        self._inside = False

    def rewritten(self, line: str) -> str:
        """The line with paths of the project directory, which a terminal or an editor can open."""
        return _TREE.sub(lambda _: f"{self._directory}/", line)

    def feed(self, line: str) -> Place | None:
        """The place of an error when this line ends its traceback and a frame is in the project."""
        if line.startswith("Traceback (most recent call last)"):
            self._frame, self._inside = None, True
            return None
        if (frame := _FRAME.match(line)) is not None:
            # A syntax error has a frame and no traceback around it.
            self._frame, self._inside = (frame["file"], int(frame["line"]), frame["function"] or ""), True
            return None
        if not self._inside or line.startswith((" ", "\t")):
            return None
        self._inside = False
        frame_of, self._frame = self._frame, None
        if frame_of is None or not _RAISED.match(line):
            return None
        return Place(*frame_of, message=line)

    def places(self, lines: list[str]) -> list[Place]:
        """All places that `feed` finds in these lines, each once."""
        found: dict[Place, None] = {}
        for line in lines:
            if (place := self.feed(line)) is not None:
                found[place] = None
        return list(found)
