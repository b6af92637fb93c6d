"""Patterns of ignore files, with the meaning that Git gives them (gitignore(5)), odd ones included.

The library for them, pathspec, reads most patterns as Git does, and raises an error or matches something else for the
others: `[[:alpha:]]`, `a**/b`, `[z-a]`, a backslash at the end, `?` for a letter of several bytes. A bundle must not
hold what Git would leave out, so that patterns are translated here, to expressions over bytes, which is what Git
compares. A property test compares the outcome with Git's.
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["GitPattern", "read_patterns"]

_SPECIAL: Final = frozenset(b"*?[\\")
_SLASH, _BACKSLASH, _STAR, _BRACKET = b"/"[0], b"\\"[0], b"*"[0], b"["[0]
_NAMED: Final = {
    b"alnum": string.ascii_letters + string.digits,
    b"alpha": string.ascii_letters,
    b"blank": " \t",
    b"cntrl": "".join(map(chr, [*range(32), 127])),
    b"digit": string.digits,
    b"graph": "".join(map(chr, range(33, 127))),
    b"lower": string.ascii_lowercase,
    b"print": "".join(map(chr, range(32, 127))),
    b"punct": string.punctuation,
    b"space": " \t\n\v\f\r",
    b"upper": string.ascii_uppercase,
    b"xdigit": string.hexdigits,
}


@dataclass(frozen=True, slots=True)
class GitPattern:
    """One line. `brings_back`: it begins with "!". `of_place`: it names a path from the file's directory, by a "/" that
    is not its end, and not a name at any depth. `parts` are those of such a path, as written."""

    brings_back: bool
    directories_only: bool
    of_place: bool
    parts: tuple[str, ...]
    expression: re.Pattern[bytes] | None  # None: it matches nothing

    def decides(self, path: str) -> bool | None:
        """Whether `path`, relative to the file's directory, with "/" at the end of a directory, is ignored; None if the
        pattern does not match it. Directories above it are not looked at: their own decision is made before."""
        if self.expression is None or (self.directories_only and not path.endswith("/")):
            return None
        subject = os.fsencode(path.rstrip("/"))
        if not self.of_place:
            subject = subject.rpartition(b"/")[2]
        return None if self.expression.fullmatch(subject) is None else not self.brings_back


def read_patterns(content: bytes) -> Iterator[GitPattern]:
    """The patterns of a file, in their order, without blank lines and comments."""
    for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        text = _without_blanks_at_end(line.removesuffix(b"\r"))
        if text and not text.startswith(b"#"):
            yield _pattern(text)


def _without_blanks_at_end(line: bytes) -> bytes:
    """A blank at the end counts only after a backslash."""
    kept = re.match(rb"(?:[^\\ ]|\\.|\\\Z| +(?! *\Z))*", line, re.DOTALL)
    return kept[0] if kept else b""


def _pattern(text: bytes) -> GitPattern:
    brings_back = text.startswith(b"!")
    text = text.removeprefix(b"!")
    directories_only = text.endswith(b"/")
    text = text.removesuffix(b"/")
    of_place = b"/" in text
    path = text.removeprefix(b"/") if of_place else text
    return GitPattern(
        brings_back=brings_back,
        directories_only=directories_only,
        of_place=of_place,
        parts=tuple(os.fsdecode(path).split("/")),
        expression=_compiled(path, of_place),
    )


def _compiled(pattern: bytes, of_place: bool) -> re.Pattern[bytes] | None:
    expression = _Expression(pattern, of_place).translate()
    return None if expression is None else re.compile(expression, re.DOTALL)


class _Expression:
    """Translates one pattern, from left to right. In a pattern of a place, only "**" matches a "/"."""

    def __init__(self, pattern: bytes, of_place: bool) -> None:
        self._pattern = pattern
        self._of_place = of_place
        self._any = b"[^/]" if of_place else b"."
        # Git compares what stands before the first wildcard by itself: the wildcard is then at the beginning.
        self._begin = next((i for i, byte in enumerate(pattern) if byte in _SPECIAL), len(pattern))

    def translate(self) -> bytes | None:
        """The regular expression, or None for a pattern that matches nothing."""
        found: list[bytes] = []
        at = 0
        while at < len(self._pattern):
            byte = self._pattern[at]
            if byte == _STAR:
                part, at = self._stars(at)
            elif byte == _BRACKET:
                members, at = self._bracket(at + 1)
                if not members:
                    return None
                part = b"[" + b"".join(b"\\x%02x" % member for member in sorted(members)) + b"]"
            elif byte == _BACKSLASH:
                if at + 1 == len(self._pattern):
                    return None
                part, at = re.escape(self._pattern[at + 1 : at + 2]), at + 2
            else:
                part, at = (self._any if byte == b"?"[0] else re.escape(bytes([byte]))), at + 1
            found.append(part)
        return b"".join(found)

    def _stars(self, at: int) -> tuple[bytes, int]:
        end = at
        while self._pattern[end : end + 1] == b"*":
            end += 1
        if not self._of_place:
            return b".*", end
        begins = at == self._begin or self._pattern[at - 1] == _SLASH
        rest = self._pattern[end:]
        if end - at < 2 or not begins or not (rest == b"" or rest.startswith((b"/", b"\\/"))):
            return self._any + b"*", end
        # "**/" stands for no directory too.
        return (b"(?:.*/)?", end + 1) if rest.startswith(b"/") else (b".*", end)

    def _bracket(self, at: int) -> tuple[set[int], int]:
        """The bytes that match, and where the pattern goes on after "]". None match where there is no "]"."""
        negated = self._pattern[at : at + 1] in (b"!", b"^")
        at += negated
        members: set[int] = set()
        before: int | None = None  # what a "-" begins a range from
        first = True
        while first or self._pattern[at : at + 1] != b"]":
            first = False
            item = self._item(at, before)
            if item is None:
                return set(), at
            added, before, at = item
            members |= added
        if negated:
            members = set(range(256)) - members
        return members - ({_SLASH} if self._of_place else set()), at + 1

    def _item(self, at: int, before: int | None) -> tuple[set[int], int | None, int] | None:
        """One entry of a bracket: the bytes that it adds, where a range may begin, and where the next one stands."""
        named = re.compile(rb"\[:([^\]]*):\]").match(self._pattern, at)
        if named:
            found = _NAMED.get(named[1])
            return None if found is None else (set(found.encode()), None, named.end())
        next_two = self._pattern[at + 1 : at + 2]
        if self._pattern[at : at + 1] == b"-" and before is not None and next_two not in (b"", b"]"):
            last, end = self._byte(at + 1)
            return None if last is None else (set(range(before, last + 1)), None, end)
        byte, end = self._byte(at)
        return None if byte is None else ({byte}, byte, end)

    def _byte(self, at: int) -> tuple[int | None, int]:
        """The byte at `at`, or the one that a backslash there protects."""
        at += self._pattern[at : at + 1] == b"\\"
        return (self._pattern[at] if at < len(self._pattern) else None), at + 1
