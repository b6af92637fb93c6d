"""Messages between the platform and a zygote, a process that forks into replicas on demand.

They travel over a SOCK_SEQPACKET pair, one MessagePack array each, with descriptors beside some of them (SCM_RIGHTS)::

    platform  Preload | Prepare       what the process becomes, once
    zygote    Ready | Refused         after Refused it exits
    platform  Fork                    any number of times
    zygote    Forked                  with descriptors: pidfd, line, channel, stdout, stderr
              ForkFailed
              Exited                  a child ended
    platform  Retire                  no more forks; the zygote exits when its last child has

The platform sends an Assignment once on a child's *line*, another such pair: the child becomes that replica. A line
that ends before means that the child is not needed, and the child exits. Both sides are of one version, because the
zygote runs the runtime that the platform staged.
"""

from __future__ import annotations

import errno
from typing import Any, Final

import msgspec

__all__ = [
    "MAX_DESCRIPTORS", "MAX_MESSAGE_BYTES", "Assignment", "Event", "Exited", "Fork", "ForkFailed", "Forked", "Preload",
    "Prepare", "Ready", "Refused", "Request", "Retire", "decode_assignment", "decode_event", "decode_request", "encode",
]  # fmt: skip

MAX_MESSAGE_BYTES: Final = 192 * 1024
"""The default buffer of a Unix socket takes this much in one piece."""
MAX_DESCRIPTORS: Final = 8


class _Message(msgspec.Struct, array_like=True, frozen=True, tag=True, gc=False): ...


class Preload(_Message, frozen=True):
    """Import these modules and become the zygote of an environment, shared by all bundles."""

    modules: list[str]


class Prepare(_Message, frozen=True):
    """Load one function, run its setup, and become the template of its snapshot. `spec` is FunctionSpec.to_dict()."""

    bundle: str
    spec: dict[str, Any]


class Fork(_Message, frozen=True):
    """Fork a child. `ahead`: no launch waits for it yet, so it may prepare itself at length."""

    id: int
    ahead: bool


class Retire(_Message, frozen=True):
    """Fork no more."""


class Ready(_Message, frozen=True):
    """`modules`: top-level names that are loaded. `skipped`: name -> why it could not be imported."""

    modules: list[str]
    skipped: dict[str, str]


class Refused(_Message, frozen=True):
    """The process cannot become what was requested. `module`: the import that is to blame. `lasting`: another attempt
    would end the same."""

    why: str
    module: str = ""
    lasting: bool = False


class Forked(_Message, frozen=True):
    """Answers the Fork with this id."""

    id: int
    pid: int


class ForkFailed(_Message, frozen=True):
    """Answers the Fork with this id."""

    id: int
    error: str


class Exited(_Message, frozen=True):
    """A child ended. `status` is that of `subprocess`: -N for signal N."""

    pid: int
    status: int


class Assignment(_Message, frozen=True):
    """Become this replica: its id, its working directory, and environment variables to set and to unset."""

    replica: str
    cwd: str
    set: dict[str, str]
    unset: list[str]


Request = Preload | Prepare | Fork | Retire
Event = Ready | Refused | Forked | ForkFailed | Exited

_encode = msgspec.msgpack.Encoder().encode
# Each raises msgspec.DecodeError.
decode_request: Final = msgspec.msgpack.Decoder(Request).decode
decode_event: Final = msgspec.msgpack.Decoder(Event).decode
decode_assignment: Final = msgspec.msgpack.Decoder(Assignment).decode


def encode(message: Request | Event | Assignment) -> bytes:
    """Raises OSError, as the kernel would, for a message that is too long."""
    data: bytes = _encode(message)
    if len(data) > MAX_MESSAGE_BYTES:
        raise OSError(errno.EMSGSIZE, f"a message of {len(data)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    return data
