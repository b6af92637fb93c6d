"""The text form of protocol buffers, as `.prototxt` files have it: nested `name { … }` and `name: value`."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["Block", "PrototextError", "read_prototext"]

_TOKEN: Final = re.compile(
    r'\s+|\#[^\n]*|(?P<string>"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\')|(?P<word>[\w.+-]+)|(?P<sign>[{}<>:;,\[\]])'
)
_MAX_DEPTH: Final = 32

Block = dict[str, list["str | Block"]]
"""Field -> its values in their order: text as written, without quotes, or a block."""


class PrototextError(ValueError):
    """This text is not of that form, or ends too early."""


def read_prototext(text: str) -> Block:
    """Raises PrototextError with the line."""
    return _Reader(text).block(0)


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.token = ""
        self.quoted = False
        self.advance()

    def advance(self) -> str:
        """The token that was current; the next one becomes it, "" at the end."""
        before = self.token
        while self.at < len(self.text):
            match = _TOKEN.match(self.text, self.at)
            if match is None:
                raise self.error()
            self.at = match.end()
            if match.lastgroup is not None:
                self.token, self.quoted = match[0], match.lastgroup == "string"
                return before
        self.token, self.quoted = "", False
        return before

    def error(self) -> PrototextError:
        return PrototextError(f"line {self.text.count(chr(10), 0, self.at) + 1} is not understood")

    def block(self, depth: int, end: str = "") -> Block:
        if depth > _MAX_DEPTH:
            raise PrototextError("nested too deeply")
        found: Block = {}
        while self.token != end:
            if not re.match(r"[A-Za-z_]", self.token):
                raise self.error()
            name = self.advance()
            colon = self.token == ":"
            if colon:
                self.advance()
            if self.token in ("{", "<"):
                close = "}" if self.advance() == "{" else ">"
                found.setdefault(name, []).append(self.block(depth + 1, close))
                self.advance()
            elif colon:
                found.setdefault(name, []).extend(self.values())
            else:
                raise self.error()
            while self.token in (";", ","):
                self.advance()
        return found

    def values(self) -> list[str | Block]:
        if self.token != "[":
            return [self.value()]
        self.advance()
        found: list[str | Block] = []
        while self.token != "]":
            found.append(self.value())
            if self.token == ",":
                self.advance()
        self.advance()
        return found

    def value(self) -> str:
        if not self.quoted and not re.match(r"[\w.+-]", self.token):
            raise self.error()
        quoted = self.quoted
        word = self.advance()
        return word[1:-1] if quoted else word
