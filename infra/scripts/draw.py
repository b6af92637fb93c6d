"""Draws a greyscale PNG in the terminal: `python draw.py FILE [COLUMNS]`. Standard library only."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SHADES = " ░▒▓█"  # paper to ink


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not data.startswith(SIGNATURE):
        raise SystemExit("this is not a PNG file")
    position = len(SIGNATURE)
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        yield data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += 12 + length


def rows(data: bytes) -> list[bytes]:
    """The picture's lines of 8-bit grey, 0 black to 255 white."""
    parts: dict[bytes, bytes] = {}
    for name, body in chunks(data):
        parts[name] = parts.get(name, b"") + body
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    if (depth, colour, interlaced) != (8, 0, 0):
        raise SystemExit("only 8-bit greyscale PNGs without interlacing are drawn")
    packed, out, above = zlib.decompress(parts[b"IDAT"]), [], bytes(width)
    for y in range(height):
        start = y * (width + 1)
        above = unfiltered(packed[start], packed[start + 1 : start + 1 + width], above)
        out.append(above)
    return out


def unfiltered(kind: int, line: bytes, above: bytes) -> bytes:
    """A line without its filter (RFC 2083, 6): each byte is given as the difference from its neighbours."""
    out = bytearray(line)
    for x in range(len(out)):
        left, up, corner = (out[x - 1], above[x], above[x - 1]) if x else (0, above[x], 0)
        guess = left + up - corner
        nearest = min((left, up, corner), key=lambda value: abs(guess - value))
        out[x] = (out[x] + (0, left, up, (left + up) // 2, nearest)[kind]) & 255
    return bytes(out)


def drawing(picture: list[bytes], columns: int) -> Iterator[str]:
    """Lines of shades, two characters for each square of the picture, since characters are tall."""
    side = max(1, len(picture[0]) // columns)
    for top in range(0, len(picture) - side + 1, side):
        line = ""
        for start in range(0, len(picture[0]) - side + 1, side):
            cell = [value for row in picture[top : top + side] for value in row[start : start + side]]
            ink = 1 - sum(cell) / len(cell) / 255
            line += SHADES[min(len(SHADES) - 1, int(ink * len(SHADES)))] * 2
        yield line.rstrip()


if __name__ == "__main__":
    wanted = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    print("\n".join(f"    {line}".rstrip() for line in drawing(rows(Path(sys.argv[1]).read_bytes()), wanted)))
