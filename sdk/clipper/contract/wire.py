"""The messages between the platform and a replica, and how they are written. `frames` reads them. No I/O here.

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

from collections.abc import Mapping
from enum import IntEnum
from struct import Struct as Packer
from typing import Annotated, Any, Final

import msgspec

__all__ = [
    "FROM_REPLICA",
    "MAX_FRAME_BYTES",
    "PROTOCOL_VERSION",
    "Cancel",
    "Chunk",
    "Credit",
    "Drain",
    "Failed",
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
    "ResponseHead",
    "Result",
    "Start",
    "Status",
    "encode",
]

PROTOCOL_VERSION: Final = 1

# The largest `length` a reader accepts unless Start says otherwise: a 64 MiB body with its headers fits twice.
MAX_FRAME_BYTES: Final = 128 * 1024 * 1024
MAX_HEADER_BYTES: Final = 8 * 1024 * 1024

# Entries of the longest list in a message: the largest batch. Without it, a header of 8 MiB becomes 0.5 GB of objects.
MAX_ENTRIES: Final = 65_536

# Chunks of a stream that may be unacknowledged; the platform returns them with Credit.
INITIAL_CREDIT: Final = 16

PREFIX: Final = Packer(">IBI")
LENGTH_BYTES: Final = 4
PREFIX_BYTES: Final = PREFIX.size
MIN_LENGTH: Final = PREFIX_BYTES - LENGTH_BYTES


class ProtocolError(Exception):
    """The peer violated the protocol."""


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


_BOUNDED: Final = msgspec.Meta(max_length=MAX_ENTRIES)


class _Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all headers. gc=False: they hold no cycles and live briefly."""


class Hello(_Message, frozen=True):
    """replica → platform, first: identifies the runtime. `token` is the launcher's (empty over a socketpair)."""

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
    items: Annotated[list[Item], _BOUNDED]


class ResponseHead(_Message, frozen=True):
    """What a function said about its HTTP answer: `headers` are (name, value), names in lower case."""

    status: int
    headers: Annotated[tuple[tuple[str, str], ...], _BOUNDED] = ()


class Outcome(_Message, frozen=True):
    """How one item ended; its payload is the next `length` bytes of the Result's body.

    `response`: the function returned `clipper.Response`, whose body the payload is.
    """

    id: int
    status: int
    content_type: str = ""
    length: int = 0
    error_type: str = ""
    message: str = ""
    response: ResponseHead | None = None


class Result(_Message, frozen=True):
    """replica → platform: outcomes of items of a batch. A batch may be answered by several Results.

    `exec_s`: seconds in user code. `reruns`: executions beyond the first that bisecting a failed batch took.
    """

    batch: int
    outcomes: Annotated[list[Outcome], _BOUNDED]
    exec_s: float = 0.0
    reruns: int = 0


class Chunk(_Message, frozen=True):
    """replica → platform: one encoded value of a streaming item (the body); `seq` counts from 0.

    `response`, with the first one only: the bodies of this and the following chunks are one answer with that head.
    """

    id: int
    seq: int
    content_type: str
    response: ResponseHead | None = None


class Credit(_Message, frozen=True):
    """platform → replica: the stream of item `id` may send `n` more chunks."""

    id: int
    n: int


class Cancel(_Message, frozen=True):
    """platform → replica: the callers of these items are gone. They are still answered, as CANCELLED or as done.

    `withdraw`: the platform wants the items back that have not begun. These are answered as CANCELLED at once, before
    what runs has ended, and do not run; the others run on.
    """

    ids: list[int]
    withdraw: bool = False


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
    """replica → platform: lines of user output. `dropped`: lines lost since the last Log because too many came.

    `unfinished`: the lines that have begun and not ended yet, all of them, in place of those of the Log before. They
    become lines if the replica ends now.
    """

    records: Annotated[list[LogRecord], _BOUNDED]
    dropped: int = 0
    unfinished: Annotated[list[LogRecord], _BOUNDED] = []


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

FROM_REPLICA: Final[Mapping[int, int]] = {
    1: 64 * 1024, 3: 1024 * 1024, 4: 1024 * 1024, 6: MAX_HEADER_BYTES, 7: 64 * 1024, 11: 1024, 13: MAX_HEADER_BYTES,
}  # fmt: skip
"""Kinds that a replica sends, and the largest header of each: Hello, Ready, Failed, Result, Chunk, Pong, Log."""

_KIND_OF: Final = {cls: kind for kind, cls in KINDS.items()}
_encode_header = msgspec.msgpack.Encoder().encode


def encode(message: Message, body_length: int = 0) -> bytes:
    """Prefix and header of a frame whose body of `body_length` bytes the caller sends right after.

    Raises ProtocolError when the frame would be larger than the format can say, or its header than a reader takes.
    """
    header = _encode_header(message)
    if len(header) > MAX_HEADER_BYTES:
        raise ProtocolError(f"a header of {len(header)} bytes is over the limit of {MAX_HEADER_BYTES}")
    length = MIN_LENGTH + len(header) + body_length
    if length > 0xFFFFFFFF:
        raise ProtocolError(f"a frame of {length} bytes cannot be expressed")
    return PREFIX.pack(length, _KIND_OF[type(message)], len(header)) + header
