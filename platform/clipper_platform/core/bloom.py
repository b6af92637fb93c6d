"""A set of digests that answers "certainly not" or "perhaps", in 1.5 bytes for each (Bloom, CACM 13, 1970).

So whoever asks for what is not there need not look at a disk.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

__all__ = ["Bloom"]

_PROBES: Final = Struct("<4Q")  # of a digest of 32 bytes, whose bits are as good as random
_BITS_EACH: Final = 12  # with 4 probes, one in 150 digests that are not there is taken to be there
_LEAST: Final = 1024


class Bloom:
    """Grows by layers, each for twice as many as the one before, so that the error stays small."""

    __slots__ = ("_layers", "_room")

    def __init__(self, expected: int = 0) -> None:
        self._room = max(_LEAST, expected)
        self._layers = [bytearray(self._room * _BITS_EACH // 8)]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(map(len, self._layers))

    def add(self, digest: bytes) -> None:
        """`digest`: 32 bytes."""
        if not self._room:
            grown = bytearray(2 * len(self._layers[-1]))
            self._layers.append(grown)
            self._room = len(grown) * 8 // _BITS_EACH
        self._room -= 1
        layer = self._layers[-1]
        bits = len(layer) * 8
        for probe in _PROBES.unpack(digest):
            bit = probe % bits
            layer[bit >> 3] |= 1 << (bit & 7)

    def __contains__(self, digest: bytes) -> bool:
        """Whether it was perhaps added."""
        probes = _PROBES.unpack(digest)
        for layer in self._layers:
            bits = len(layer) * 8
            for probe in probes:
                bit = probe % bits
                if not layer[bit >> 3] & 1 << (bit & 7):
                    break
            else:
                return True
        return False
