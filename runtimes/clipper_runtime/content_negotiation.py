"""What the headers of an invocation's payload say: content types and their charsets, the types of images."""

from __future__ import annotations

from clipper.contract.media_types import JSON, canonical_media_type

__all__ = ["canonical", "sniff_image"]

# The first bytes of the image formats that browsers ask for by name.
_IMAGE_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


def canonical(content_type: str) -> tuple[str, str]:
    """The media type in lower case under its canonical name, and its charset ("" if none is given)."""
    charset = ""
    for parameter in content_type.split(";")[1:]:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset":
            charset = value.strip().strip('"').lower()
    kind = canonical_media_type(content_type)
    return (JSON if kind.endswith("+json") else kind), charset


def sniff_image(data: bytes) -> str | None:
    """The image type whose signature `data` begins with, or None."""
    for signature, media in _IMAGE_SIGNATURES:
        if data.startswith(signature):
            return media
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None
