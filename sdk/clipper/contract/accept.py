"""The `Accept` header: which media types a client takes, and which of them it prefers (RFC 9110 §12.5.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from clipper.contract.media_types import canonical_media_type

__all__ = ["Accept", "MediaRange", "Preference"]

Preference = tuple[float, int, int]
"""How much a client wants a media type, the most wanted being the largest: the quality, how exactly it is named (2 a
type, 1 `image/*`, 0 `*/*`), and its place in the header, counted downwards."""

_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_QUALITY: Final = re.compile(r"\d*\.?\d*\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One media range, such as `image/png`, `image/*` or `*/*`. A `quality` of 0 excludes it."""

    kind: str
    subtype: str
    quality: float

    @property
    def media(self) -> str:
        return f"{self.kind}/{self.subtype}"

    @property
    def exactness(self) -> int:
        return (self.kind != "*") + (self.subtype != "*")

    def matches(self, kind: str, subtype: str) -> bool:
        return self.kind in ("*", kind) and self.subtype in ("*", subtype)


@dataclass(frozen=True, slots=True)
class Accept:
    """The ranges of a header in its order. Parts that cannot be read are left out."""

    ranges: tuple[MediaRange, ...]

    @classmethod
    def parse(cls, header: str) -> Accept:
        """An empty header takes anything."""
        parts = _QUOTED.sub("", header).split(",") if header.strip() else ["*/*"]
        return cls(tuple(found for part in parts if (found := _media_range(part)) is not None))

    def preference(self, media: str) -> Preference | None:
        """How much the client wants this type; None where it does not take it. The most exact range counts."""
        kind, _, subtype = media.partition("/")
        matching = [
            (one.exactness, -place, one.quality) for place, one in enumerate(self.ranges) if one.matches(kind, subtype)
        ]
        if not matching:
            return None
        exactness, place, quality = max(matching)
        return (quality, exactness, place) if quality else None

    @property
    def best(self) -> Preference | None:
        """Of the range that is wanted most; None where all are excluded."""
        wanted = [(one.quality, one.exactness, -place) for place, one in enumerate(self.ranges) if one.quality]
        return max(wanted, default=None)


def _media_range(part: str) -> MediaRange | None:
    media, *parameters = part.split(";")
    kind, slash, subtype = canonical_media_type(media).partition("/")
    if not (kind and slash and subtype) or (kind == "*" and subtype != "*"):
        return None
    return MediaRange(kind, subtype, _quality(parameters))


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        value = value.strip()
        if key.strip().lower() == "q" and _QUALITY.match(value) and value.strip("."):
            return min(1.0, float(value))
    return 1.0
