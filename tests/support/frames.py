"""Whole frames for tests, which need not save a copy."""

from __future__ import annotations

from collections.abc import Sequence

from clipper.contract.wire import Message, encode

__all__ = ["frame_of"]


def frame_of(message: Message, payloads: Sequence[bytes | memoryview] = ()) -> bytes:
    return b"".join((encode(message, sum(map(len, payloads))), *payloads))
