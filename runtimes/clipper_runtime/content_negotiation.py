"""Content types by their canonical names, and the media ranges of an `Accept` header in order of preference."""

from __future__ import annotations

from dataclasses import dataclass

from clipper.contract.media_types import EVENT_STREAM, JSON, MSGPACK, NDJSON, NPY

__all__ = ["Range", "accepted", "canonical", "sniff_image"]

_ALIASES = {
    "application/x-msgpack": MSGPACK,
    "application/vnd.msgpack": MSGPACK,
    "application/npy": NPY,
    "text/json": JSON,
    # The platform frames the items for the client; each item is JSON.
    EVENT_STREAM: JSON,
    NDJSON: JSON,
}

# The first bytes of the image formats that browsers ask for by name.
_IMAGE_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


def canonical(content_type: str) -> tuple[str, str]:
    """The media type in lower case under its canonical name, and its charset ("" if none is given)."""
    media, *parameters = content_type.split(";")
    media = media.strip().lower()
    charset = ""
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset":
            charset = value.strip().strip('"').lower()
    return _ALIASES.get(media, media), charset


@dataclass(frozen=True, slots=True)
class Range:
    """One acceptable media range, such as `image/png`, `image/*` or `*/*`."""

    kind: str
    subtype: str

    def matches(self, media: str) -> bool:
        kind, _, subtype = media.partition("/")
        return self.kind in ("*", kind) and self.subtype in ("*", subtype)

    @property
    def media(self) -> str:
        return f"{self.kind}/{self.subtype}"


def accepted(accept: str) -> tuple[list[Range], list[Range]]:
    """The ranges of an `Accept` value, the preferred one first, and the ranges that it excludes with `q=0`.

    An empty value accepts anything. Parts that cannot be parsed are ignored.
    """
    wanted: list[tuple[float, int, int, Range]] = []
    refused: list[Range] = []
    for position, part in enumerate((accept or "*/*").split(",")):
        media, *parameters = part.split(";")
        kind, slash, subtype = canonical(media)[0].partition("/")
        if not (kind and slash and subtype):
            continue
        found, quality = Range(kind, subtype), _quality(parameters)
        if quality == 0:
            refused.append(found)
        else:
            wildcards = (kind == "*") + (subtype == "*")
            wanted.append((-quality, wildcards, position, found))
    return [entry[3] for entry in sorted(wanted, key=lambda entry: entry[:3])], refused


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 1.0
    return 1.0


def sniff_image(data: bytes) -> str | None:
    """The image type whose signature `data` begins with, or None."""
    for signature, media in _IMAGE_SIGNATURES:
        if data.startswith(signature):
            return media
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None
