"""The error of a payload that cannot be decoded, or of a value that cannot be encoded."""

from __future__ import annotations

from clipper.contract.wire import Status

__all__ = ["Rejected"]


class Rejected(Exception):
    """The outcome of its item."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
