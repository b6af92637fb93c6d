"""A file's bytes one after the other, unpacked where it is compressed, without ever holding more than was asked for."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from clipper.models.description import ModelError

__all__ = ["ByteStream", "EndOfBytes", "open_stream"]

_CHUNK_BYTES: Final = 256 * 1024
# What a compressed file may unpack to: a gigabyte of zeros is a megabyte of zlib's.
MAX_UNPACKED_BYTES: Final = 4 * 1024 * 1024 * 1024
_MAX_LINE_BYTES: Final = 64 * 1024


class EndOfBytes(Exception):
    """The bytes end before what they promise."""


class ByteStream:
    """`read(n)`, `skip(n)` and `line()`; EndOfBytes is raised where the file ends too early."""

    def __init__(self, file: BinaryIO, unpacker: Any = None) -> None:
        self._file, self._unpacker = file, unpacker
        self._buffer, self._at = b"", 0
        self._unpacked = 0

    def read(self, count: int) -> bytes:
        if count <= len(self._buffer) - self._at:
            self._at += count
            return self._buffer[self._at - count : self._at]
        parts, missing = [], count
        while missing:
            part = self._take(missing)
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def skip(self, count: int) -> None:
        while count:
            count -= len(self._take(count))

    def line(self) -> bytes:
        """Up to the next line feed, which is left out."""
        out = bytearray()
        while (byte := self.read(1)) != b"\n":
            out += byte
            if len(out) > _MAX_LINE_BYTES:
                raise EndOfBytes("a line is too long")
        return bytes(out)

    def _take(self, count: int) -> bytes:
        """Between one byte and `count`."""
        if self._at >= len(self._buffer):
            self._buffer, self._at = self._next_chunk(), 0
        part = self._buffer[self._at : self._at + count]
        self._at += len(part)
        return part

    def _next_chunk(self) -> bytes:
        if self._unpacker is None:
            chunk = self._file.read(_CHUNK_BYTES)
            if not chunk:
                raise EndOfBytes("the file ends too early")
            return chunk
        chunk = self._unpack()
        self._unpacked += len(chunk)
        if self._unpacked > MAX_UNPACKED_BYTES:
            raise EndOfBytes("it unpacks to more than 4 GiB")
        return chunk

    def _unpack(self) -> bytes:
        try:
            while not self._unpacker.eof:
                data = getattr(self._unpacker, "unconsumed_tail", b"")
                if not data and getattr(self._unpacker, "needs_input", True):
                    data = self._file.read(_CHUNK_BYTES)
                if chunk := self._unpacker.decompress(data, _CHUNK_BYTES):
                    return bytes(chunk)
                if not data:
                    break
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
            raise EndOfBytes(f"it cannot be unpacked: {error}") from None
        raise EndOfBytes("the file ends too early")


_COMPRESSIONS: Final[tuple[tuple[bytes, str, Callable[[], Any]], ...]] = (
    (b"\x1f\x8b", "gzip", lambda: zlib.decompressobj(wbits=31)),
    (b"BZh", "bz2", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", "xz", lzma.LZMADecompressor),
    (b"\x5d\x00\x00", "lzma", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE)),
)
# The first two bytes of zlib's: its method and window, and levels 1, 5, 6 and 9.
_ZLIB: Final = frozenset({b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"})


def open_stream(file: BinaryIO, path: Path) -> tuple[ByteStream, str]:
    """The bytes of an open file, and the name of its compression, "" where there is none. Raises ModelError."""
    head = file.read(6)
    file.seek(0)
    if head[:4] == b"\x04\x22\x4d\x18":
        raise ModelError(
            "is compressed by lz4, which is not read here: save it by joblib.dump(model, path, compress='zlib')",
            where=str(path),
        )
    if head[:2] in _ZLIB:
        return ByteStream(file, zlib.decompressobj()), "zlib"
    for magic, name, make in _COMPRESSIONS:
        if head.startswith(magic):
            return ByteStream(file, make()), name
    return ByteStream(file), ""
