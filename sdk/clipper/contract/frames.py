"""Frames of the wire protocol, read: bytes in, messages and their bodies out. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, pairwise
from typing import Any, Final

import msgspec

from clipper.contract.wire import (
    KINDS,
    LENGTH_BYTES,
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    MIN_LENGTH,
    PREFIX,
    PREFIX_BYTES,
    Invoke,
    ProtocolError,
)

__all__ = ["Frame", "FrameReader", "read_invoke", "split_body"]

_ALIGNMENT: Final = 16
_DECODERS: Final[dict[int, msgspec.msgpack.Decoder[Any]]] = {
    kind: msgspec.msgpack.Decoder(cls) for kind, cls in KINDS.items()
}
_INVOKE: Final = next(kind for kind, cls in KINDS.items() if cls is Invoke)
_decode_invoke = _DECODERS[_INVOKE].decode


_ANY_KIND: Final = dict.fromkeys(KINDS, MAX_HEADER_BYTES)


class Frame:
    """A decoded frame: the message and its body, a view that stays valid as long as the frame is held.

    A body that came in several pieces is writable and begins at a multiple of 16 bytes: the memory is the frame's own.
    """

    __slots__ = ("body", "message")

    def __init__(self, message: Any, body: memoryview) -> None:
        self.message = message
        self.body = body

    def __repr__(self) -> str:
        return f"Frame({self.message!r}, {len(self.body)} bytes)"


class FrameReader:
    """Bytes in, frames out; any split of the same bytes gives the same frames.

    Memory: at most one incomplete frame is held, and a frame's announced size is checked before room is made for it.
    After a ProtocolError the reader raises the same error again.
    """

    __slots__ = ("_buffer", "_error", "_filled", "_limits", "_need", "_padding", "max_frame_bytes")

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES, limits: Mapping[int, int] = _ANY_KIND) -> None:
        """`limits`: kinds that the peer may send, and the largest header of each."""
        self.max_frame_bytes = max_frame_bytes
        self._limits = limits
        # The incomplete frame behind some padding. It grows with the bytes that arrive, so a false length costs no
        # memory; realloc moves pages, not bytes, and this is several times faster than joining pieces at the end.
        self._buffer = bytearray()
        self._padding = 0
        self._filled = 0
        self._need = 0  # total bytes of the incomplete frame, 0 while its prefix is incomplete
        self._error: ProtocolError | None = None

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame held."""
        return self._filled

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """All frames that `data` completes. Raises ProtocolError on garbage.

        Frames refer to `data` itself only if it is `bytes`, which cannot change under them.
        """
        if self._error is not None:
            raise self._error
        try:
            size = len(data)
            if not self._filled and size >= PREFIX_BYTES:
                length, kind, header = PREFIX.unpack_from(data, 0)
                if length + LENGTH_BYTES == size:
                    self._check(length, kind, header)
                    # The usual case: exactly one whole frame.
                    return [_decode(data if isinstance(data, bytes) else bytes(data), kind, header)]
            return list(self._feed(data))
        except ProtocolError as error:
            self._error = error
            self._buffer, self._filled = bytearray(), 0
            raise

    def _feed(self, data: bytes | bytearray | memoryview) -> Iterator[Frame]:
        view = memoryview(data)
        stable = isinstance(data, bytes)
        position, end = 0, len(view)
        while position < end:
            if self._filled == 0:
                # Whole frames are decoded from `data` without a copy.
                while end - position >= PREFIX_BYTES:
                    total = self._total(view, position)
                    if end - position < total:
                        break
                    whole = view[position : position + total]
                    yield _decode(whole if stable else bytes(whole), *PREFIX.unpack_from(whole, 0)[1:])
                    position += total
                if position == end:
                    return
            position += self._keep(view[position:])
            if self._need and self._filled == self._need:
                whole = self._take()
                yield _decode(whole, *PREFIX.unpack_from(whole, 0)[1:])

    def _keep(self, view: memoryview) -> int:
        """Add to the incomplete frame what it still needs of `view`; the number of bytes taken."""
        taken = min((self._need or PREFIX_BYTES) - self._filled, len(view))
        self._buffer += view[:taken]
        self._filled += taken
        if not self._need and self._filled == PREFIX_BYTES:
            self._need = self._total(self._buffer, 0)
            # The allocator aligns memory to 16 bytes; with this padding in front, the body is aligned too.
            header = int.from_bytes(self._buffer[-4:], "big")
            self._padding = -(PREFIX_BYTES + header) % _ALIGNMENT
            self._buffer = bytearray(self._padding) + self._buffer
        return taken

    def _take(self) -> memoryview:
        """The complete frame."""
        whole = memoryview(self._buffer)[self._padding :]
        self._buffer, self._filled, self._need, self._padding = bytearray(), 0, 0, 0
        return whole

    def _total(self, view: bytes | bytearray | memoryview, position: int) -> int:
        length, kind, header = PREFIX.unpack_from(view, position)
        self._check(length, kind, header)
        return int(length) + LENGTH_BYTES

    def _check(self, length: int, kind: int, header: int) -> None:
        if length > self.max_frame_bytes:
            raise ProtocolError(f"a frame of {length} bytes is over the limit of {self.max_frame_bytes}")
        limit = self._limits.get(kind)
        if limit is None:
            name = KINDS[kind].__name__ if kind in KINDS else ""
            raise ProtocolError(f"the peer must not send {name}" if name else f"unknown frame kind {kind}")
        if header > limit or header > length - MIN_LENGTH:
            raise ProtocolError(f"a header of {header} bytes does not fit its frame of {length} bytes")


def _decode(whole: bytes | memoryview, kind: int, header: int) -> Frame:
    start = PREFIX_BYTES + header
    view = memoryview(whole)
    try:
        message = _DECODERS[kind].decode(view[PREFIX_BYTES:start])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the header of a {KINDS[kind].__name__} frame is not valid: {error}") from None
    return Frame(message, view[start:])


def split_body(body: memoryview, lengths: Iterable[int]) -> list[memoryview]:
    """The payloads inside a body. Raises ProtocolError unless the lengths are its exact partition."""
    lengths = list(lengths)
    if lengths and min(lengths) < 0:
        raise ProtocolError("a payload's length is negative")
    bounds = list(accumulate(lengths, initial=0))
    if bounds[-1] != len(body):
        raise ProtocolError(f"payloads of {bounds[-1]} bytes do not make the body of {len(body)} bytes")
    return [body[start:end] for start, end in pairwise(bounds)]


def read_invoke(view: memoryview, size: int, max_frame_bytes: int) -> tuple[Invoke, int] | None:
    """The message and where the body begins, if the first `size` bytes of `view` are one whole, valid Invoke frame."""
    if size < PREFIX_BYTES:
        return None
    length, kind, header = PREFIX.unpack_from(view)
    if kind != _INVOKE or length + LENGTH_BYTES != size or length > max_frame_bytes or header > length - MIN_LENGTH:
        return None
    if header > MAX_HEADER_BYTES:
        return None
    start = PREFIX_BYTES + header
    try:
        return _decode_invoke(view[PREFIX_BYTES:start]), start
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
