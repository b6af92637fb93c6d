"""What a process with foreign code may see and do on its machine: a replica, a zygote, the build of an environment. The
platform decides it; the process applies it to itself before that code runs (`clipper_runtime.confinement`).
`infra/docs/isolation.md` describes the guarantees."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

__all__ = [
    "CONFINEMENT_VARIABLE", "Confinement", "Mode", "Probe", "decode_probe", "encode",
]  # fmt: skip

CONFINEMENT_VARIABLE: Final = "CLIP_CONFINEMENT"
"""Environment variable with a process's Confinement as JSON, which removes it before other code runs."""

Mode = Literal["mounts", "landlock", "none"]
"""mounts: a mount namespace of its own, in which hidden directories are empty and others are read-only. landlock:
rules that allow all but these, which also refuse new entries in the directories above them. none: nothing."""


class Confinement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Absolute paths without symbolic links.

    `hidden`: directories and files that cannot be read. `read_only`: shown, also inside a hidden directory, and not
    writable. `writable`: shown inside a hidden directory. A read-only or writable path that does not exist is left out.
    `overlays`: pairs of a directory and a private one, which takes what is changed below the first; not with Landlock.
    `uid`: the user, and the group, that the process becomes, with `groups` besides; 0: it keeps its own. `memory_bytes`
    bounds its private memory, which the platform may not do any more then; 0: no bound.
    """

    mode: Mode
    user_namespace: bool = False  # the mount namespace needs one, because the platform lacks CAP_SYS_ADMIN
    hidden: list[str] = []
    read_only: list[str] = []
    writable: list[str] = []
    overlays: list[tuple[str, str]] = []
    uid: int = 0
    groups: list[int] = []
    memory_bytes: int = 0


class Probe(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What holds on this machine, found by trying it. `reasons`: mode -> why it does not work here."""

    mode: Mode
    user_namespace: bool = False
    landlock: int = 0  # its ABI; 0: the kernel has none
    signals: bool = False  # refused towards other processes
    memory: bool = False  # of other processes, and their environment variables, cannot be read
    users: bool = False  # the platform can give processes a user of their own
    reasons: dict[str, str] = {}


encode: Final = msgspec.json.Encoder().encode
decode_probe: Final = msgspec.json.Decoder(Probe).decode
"""Raises msgspec.DecodeError."""
