"""The wire protocol between the platform and a replica: frames, messages, their encoding. No I/O here.

A frame is a 9-byte prefix, a header and a body::

    length  u32, big endian: bytes that follow this field, so 5 + header + body
    kind    u8: which message the header is
    header  u32, big endian: the header's length in bytes
    header  one MessagePack array: the message's fields in order; fields may be appended in later versions,
            so a reader ignores surplus elements and takes defaults for missing trailing ones
    body    the payloads that the header describes, one after the other, untouched

Both directions use the same frames. `infra/docs/wire-protocol.md` describes the conversation and carries the test
vectors. A violation raises `ProtocolError`; the connection is then unusable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from itertools import accumulate, pairwise
from struct import Struct as Packer
from typing import Any, Final

import msgspec

__all__ = [
    "MAX_FRAME_BYTES",
    "PROTOCOL_VERSION",
    "Cancel",
    "Chunk",
    "Credit",
    "Drain",
    "Failed",
    "Frame",
    "FrameReader",
    "Hello",
    "Invoke",
    "Item",
    "Log",
    "LogRecord",
    "Message",
    "Outcome",
    "Ping",
    "Pong",
    "ProtocolError",
    "Ready",
    "Result",
    "Start",
    "Status",
    "encode",
    "read_invoke",
    "split_body",
]

PROTOCOL_VERSION: Final = 1

# The largest `length` a reader accepts unless Start says otherwise: a 64 MiB body with its headers fits twice.
MAX_FRAME_BYTES: Final = 128 * 1024 * 1024
MAX_HEADER_BYTES: Final = 8 * 1024 * 1024

# Chunks of a stream that may be unacknowledged; the platform returns them with Credit.
INITIAL_CREDIT: Final = 16

_PREFIX = Packer(">IBI")
_LENGTH_BYTES = 4
PREFIX_BYTES: Final = _PREFIX.size
_ALIGNMENT = 16
_MIN_LENGTH = PREFIX_BYTES - _LENGTH_BYTES


class ProtocolError(Exception):
    """The peer sent bytes that are not this protocol."""


class Status(IntEnum):
    """How one item ended. The platform maps these to its error taxonomy."""

    OK = 0
    FUNCTION_ERROR = 1  # user code raised, or returned an Exception for the item
    MALFORMED = 2  # the payload is not what its content type says
    INVALID = 3  # the payload does not fit the function's schema
    UNSUPPORTED_MEDIA_TYPE = 4
    NOT_ACCEPTABLE = 5  # the value has no form that `accept` allows
    UNENCODABLE = 6  # the return value cannot be encoded, or the result list has the wrong length
    TOO_LARGE = 7  # the encoded value does not fit a frame
    CANCELLED = 8


class _Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all headers. gc=False: they hold no cycles and live briefly."""


class Hello(_Message, frozen=True):
    """replica → platform, first: who speaks. `token` repeats what the launcher was given (empty over a socketpair)."""

    protocol_min: int
    protocol_max: int
    runtime: str
    runtime_version: str
    python: str
    pid: int
    token: str = ""


class Start(_Message, frozen=True):
    """platform → replica: become this function. `spec` is FunctionSpec.to_dict()."""

    protocol: int
    project: str
    function: str
    version: int
    replica: str
    bundle: str  # the directory of the unpacked bundle, as the replica sees it
    spec: dict[str, Any]
    max_frame_bytes: int = MAX_FRAME_BYTES


class Ready(_Message, frozen=True):
    """replica → platform: setup is done. `phases` are seconds: import, load, setup.

    `streaming`: the function is a generator, so its items are answered by Chunk frames and a final Result.
    `concurrency`: how many calls of the function the replica runs at once: of one item each, or of one Invoke each
    where `batched`.
    """

    schema: dict[str, Any]
    batched: bool
    streaming: bool
    concurrency: int
    phases: dict[str, float]


class Failed(_Message, frozen=True):
    """replica → platform instead of Ready: `phase` is handshake, import, load, schema or setup.

    The replica then exits with status 1.
    """

    phase: str
    error_type: str
    message: str
    traceback: str


class Item(_Message, frozen=True):
    """One invocation inside Invoke; its payload is the next `length` bytes of the body."""

    id: int
    request_id: str
    content_type: str
    accept: str
    timeout_s: float
    length: int


class Invoke(_Message, frozen=True):
    """platform → replica: run these together."""

    batch: int
    items: list[Item]


class Outcome(_Message, frozen=True):
    """How one item ended; its payload is the next `length` bytes of the Result's body."""

    id: int
    status: int
    content_type: str = ""
    length: int = 0
    error_type: str = ""
    message: str = ""


class Result(_Message, frozen=True):
    """replica → platform: outcomes of items of a batch. A batch may be answered by several Results.

    `exec_s`: seconds in user code. `reruns`: executions beyond the first that bisecting a failed batch took.
    """

    batch: int
    outcomes: list[Outcome]
    exec_s: float = 0.0
    reruns: int = 0


class Chunk(_Message, frozen=True):
    """replica → platform: one encoded value of a streaming item (the body); `seq` counts from 0."""

    id: int
    seq: int
    content_type: str


class Credit(_Message, frozen=True):
    """platform → replica: the stream of item `id` may send `n` more chunks."""

    id: int
    n: int


class Cancel(_Message, frozen=True):
    """platform → replica: nobody waits for these items any more. They are still answered, as CANCELLED or as done."""

    ids: list[int]


class Ping(_Message, frozen=True):
    """platform → replica: answer with Pong, also while user code runs."""

    nonce: int


class Pong(_Message, frozen=True):
    """replica → platform. `busy_s`: seconds since the running batch began, 0 when idle."""

    nonce: int
    in_flight: int
    busy_s: float


class Drain(_Message, frozen=True):
    """platform → replica: finish what was sent, call `close`, exit with status 0."""

    timeout_s: float


class LogRecord(_Message, frozen=True):
    """One line. `stream`: stdout, stderr or log; `ts`: Unix time in seconds."""

    ts: float
    stream: str
    level: str
    request_id: str
    message: str
    logger: str = ""


class Log(_Message, frozen=True):
    """replica → platform: lines of user output. `dropped`: lines lost since the last Log because too many came."""

    records: list[LogRecord]
    dropped: int = 0


Message = Hello | Start | Ready | Failed | Invoke | Result | Chunk | Credit | Cancel | Ping | Pong | Drain | Log

KINDS: Final[dict[int, type[_Message]]] = {
    1: Hello,
    2: Start,
    3: Ready,
    4: Failed,
    5: Invoke,
    6: Result,
    7: Chunk,
    8: Credit,
    9: Cancel,
    10: Ping,
    11: Pong,
    12: Drain,
    13: Log,
}
_KIND_OF: Final = {cls: kind for kind, cls in KINDS.items()}
_DECODERS: Final[dict[int, msgspec.msgpack.Decoder[Any]]] = {
    kind: msgspec.msgpack.Decoder(cls) for kind, cls in KINDS.items()
}
_INVOKE: Final = _KIND_OF[Invoke]
_decode_invoke = _DECODERS[_INVOKE].decode
_encode_header = msgspec.msgpack.Encoder().encode


def encode(message: Message, body_length: int = 0) -> bytes:
    """Prefix and header of a frame whose body of `body_length` bytes the caller sends right after.

    Raises ProtocolError when the frame would be larger than the format can say, or its header than a reader takes.
    """
    header = _encode_header(message)
    if len(header) > MAX_HEADER_BYTES:
        raise ProtocolError(f"a header of {len(header)} bytes is over the limit of {MAX_HEADER_BYTES}")
    length = _MIN_LENGTH + len(header) + body_length
    if length > 0xFFFFFFFF:
        raise ProtocolError(f"a frame of {length} bytes cannot be expressed")
    return _PREFIX.pack(length, _KIND_OF[type(message)], len(header)) + header


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
    After a ProtocolError the reader is spent: it raises the same error again.
    """

    __slots__ = ("_buffer", "_error", "_filled", "_need", "_padding", "max_frame_bytes")

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.max_frame_bytes = max_frame_bytes
        # The incomplete frame behind some padding. It grows with the bytes that arrive, so a liar's length costs no
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
                length, kind, header = _PREFIX.unpack_from(data, 0)
                if length + _LENGTH_BYTES == size:
                    self._check(length, kind, header)
                    # Nearly always: one frame, whole.
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
                # Fast way: whole frames straight out of `data`.
                while end - position >= PREFIX_BYTES:
                    total = self._total(view, position)
                    if end - position < total:
                        break
                    whole = view[position : position + total]
                    yield _decode(whole if stable else bytes(whole), *_PREFIX.unpack_from(whole, 0)[1:])
                    position += total
                if position == end:
                    return
            position += self._keep(view[position:])
            if self._need and self._filled == self._need:
                whole = self._take()
                yield _decode(whole, *_PREFIX.unpack_from(whole, 0)[1:])

    def _keep(self, view: memoryview) -> int:
        """Add to the incomplete frame what it still needs of `view`; the number of bytes taken."""
        taken = min((self._need or PREFIX_BYTES) - self._filled, len(view))
        self._buffer += view[:taken]
        self._filled += taken
        if not self._need and self._filled == PREFIX_BYTES:
            self._need = self._total(self._buffer, 0)
            # Memory of any size begins at a multiple of 16: with so much in front, so does the body.
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
        length, kind, header = _PREFIX.unpack_from(view, position)
        self._check(length, kind, header)
        return int(length) + _LENGTH_BYTES

    def _check(self, length: int, kind: int, header: int) -> None:
        if length > self.max_frame_bytes:
            raise ProtocolError(f"a frame of {length} bytes is over the limit of {self.max_frame_bytes}")
        if kind not in KINDS:
            raise ProtocolError(f"unknown frame kind {kind}")
        if header > MAX_HEADER_BYTES or header > length - _MIN_LENGTH:
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
    length, kind, header = _PREFIX.unpack_from(view)
    if kind != _INVOKE or length + _LENGTH_BYTES != size or length > max_frame_bytes or header > length - _MIN_LENGTH:
        return None
    if header > MAX_HEADER_BYTES:
        return None
    start = PREFIX_BYTES + header
    try:
        return _decode_invoke(view[PREFIX_BYTES:start]), start
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
