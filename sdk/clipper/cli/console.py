"""The output of commands: JSON documents or text on stdout, diagnostics on stderr.

With `--json`, stdout holds exactly one document; on a terminal it has colours, tables and live displays; otherwise it
is plain lines. rich is loaded for terminals only, when the first line is printed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal

from clipper.cli.text import clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["FAIL", "OK", "WARN", "Output", "Part"]

# A piece of a line: text, or text and a rich style.
Part = str | tuple[str, str]

OK, FAIL, WARN = "✓", "✗", "!"

_STATES = {
    "ready": "green",
    "succeeded": "green",
    "current": "green",
    "starting": "yellow",
    "degraded": "yellow",
    "draining": "yellow",
    "running": "yellow",
    "unchanged": "cyan",
    "failed": "red",
    "crashed": "red",
    "revoked": "red",
    "cancelled": "red",
}


def state_style(state: str) -> str:
    """The colour of a state; "" for one without a colour."""
    return _STATES.get(state, "")


def _takes_utf8(stream: IO[str]) -> bool:
    """JSON is escaped for a locale with another encoding, in which characters would become `?`."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"


def _is_terminal(stream: IO[str]) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class Output:
    """Prints one command's results. `terminal`: stdout is a terminal, so colours and live displays are used."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self.terminal = not json and _is_terminal(sys.stdout)
        # A question is read from stdin and shown on stderr: both must be terminals.
        self.interactive = sys.stdin is not None and sys.stdin.isatty() and _is_terminal(sys.stderr) and not json
        self._consoles: dict[str, Console] = {}

    def document(self, value: Any) -> None:
        """`value` as the one JSON document of this command."""
        self._write_json(value, indent=2)

    def event(self, value: Any) -> None:
        """`value` as one line of a JSON stream."""
        self._write_json(value)

    def _write_json(self, value: Any, indent: int | None = None) -> None:
        import json  # 1 ms that `clip --version` and `clip --help` have no use for

        sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=not _takes_utf8(sys.stdout), default=str) + "\n")
        sys.stdout.flush()

    def line(self, *parts: Part, wrap: bool = False) -> None:
        """A line of the result. With `--json` it is not printed, since the document is the result.

        `wrap` breaks it between words at the terminal's width; otherwise it can be copied in one piece.
        """
        if not self.json:
            self._print(sys.stdout, self.terminal, parts, wrap=wrap)

    def note(self, *parts: Part, wrap: bool = False) -> None:
        """A line of diagnostics, on stderr: never part of the result."""
        self._print(sys.stderr, _is_terminal(sys.stderr), parts, wrap=wrap)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Part]], *, right: Iterable[str] = ()) -> None:
        """Rows under headings; `right` names the columns that are aligned to the right."""
        if self.json:
            return
        if self.terminal:
            self._rich_table(columns, list(rows), frozenset(right))
        else:
            self._plain_table(columns, list(rows), frozenset(right))

    def console(self, stream: IO[str] | None = None) -> Console:
        """The rich console on stdout (or `stream`), for live displays and for JSON in colours."""
        from rich.console import Console

        stream = stream or sys.stdout
        name = "err" if stream is sys.stderr else "out"
        if name not in self._consoles:
            # color_system None, unlike no_color, leaves out bold and dim as well.
            plain = bool(os.environ.get("NO_COLOR"))
            self._consoles[name] = Console(
                file=stream,
                force_terminal=True,
                color_system=None if plain else "auto",
                highlight=False,
                markup=False,
                emoji=False,
            )
        return self._consoles[name]

    def _print(self, stream: IO[str], terminal: bool, parts: Sequence[Part], *, wrap: bool = False) -> None:
        if terminal:
            self.console(stream).print(styled(parts), soft_wrap=not wrap)
            return
        stream.write("".join(clean(part if isinstance(part, str) else part[0]) for part in parts) + "\n")
        stream.flush()

    def _rich_table(self, columns: Sequence[str], rows: list[Sequence[Part]], right: frozenset[str]) -> None:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for column in columns:
            # Only the last column, which holds text, is wrapped: a broken number or name is hard to read.
            last = column is columns[-1]
            justify: Literal["right", "left"] = "right" if column in right else "left"
            table.add_column(column, justify=justify, no_wrap=not last, overflow="fold" if last else "ellipsis")
        for row in rows:
            table.add_row(*(styled((cell,)) for cell in row))
        self.console().print(table)

    def _plain_table(self, columns: Sequence[str], rows: list[Sequence[Part]], right: frozenset[str]) -> None:
        cells = [list(columns), *([clean(c if isinstance(c, str) else c[0]) for c in row] for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        for row in cells:
            padded = (
                cell.rjust(width) if column in right else cell.ljust(width)
                for cell, width, column in zip(row, widths, columns, strict=True)
            )
            self._print(sys.stdout, False, ["  ".join(padded).rstrip()])


def styled(parts: Iterable[Part]) -> Text:
    """The parts as one rich text, with control characters escaped."""
    from rich.text import Text

    text = Text()
    for part in parts:
        if isinstance(part, str):
            text.append(clean(part))
        else:
            text.append(clean(part[0]), style=part[1] or None)
    return text
