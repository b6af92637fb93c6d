"""The result cache: which answers are kept, in how many bytes, for how long. No clock, no I/O.

A cache entry saves a run of the model, however few bytes its result has. So the policy looks for the most hits in the
bytes that it has:

- Entries are ranked by *frequency per byte*, as in GreedyDual-Size-Frequency (Cherkasova, 1998).
- A new result enters only if it ranks above the entries that would leave, by a frequency that is remembered beyond its
  stay in the cache: the admission of TinyLFU (Einziger, Friedman and Manes, 2017). It keeps scans and loops out.
- Frequencies age: a hit counts half as much after 12 times as many requests as there are entries. As in forward decay,
  no old frequency is halved; new hits weigh more. Scores therefore only grow, and a hit is one addition.

Simpler policies, which look at the order of requests only, find fewer hits. `python -m tests.benchmarks.cache_policies
--quick`, hits in percent of the requests:

    trace (cache: 5% of the bytes; the loop 50%)        SIEVE   S3-FIFO   this
    Zipf 0.9; sizes equal                                53.2      54.2   55.4
    Zipf 0.9; sizes log-normal                           53.2      53.8   59.9
    Zipf 0.9; sizes 200 or 200,000 bytes                 53.7      54.5   70.7
    Zipf 0.9 with scans; sizes log-normal                34.1      35.6   37.8
    popularity redrawn 5 times; sizes equal              42.3      49.3   46.8
    popularity redrawn 5 times; 200 or 200,000 bytes     42.1      49.2   62.7
    loop over twice what fits; sizes equal                0.0       0.0   44.2

Of the *bytes* asked for, fewer hit than with S3-FIFO where sizes differ, since small results are preferred.

The order is a heap of scores as they were (lower bounds), corrected when they reach the top; a hit never touches it.
With CPython 3.11 on one core: a hit 0.10 µs, a miss 0.06 µs, a miss with its put 2.3 µs, beside the run before it.
In the benchmark's replay a request takes 0.9 µs, with SIEVE 0.3 µs and with S3-FIFO 0.4 µs.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence
from functools import lru_cache
from hashlib import blake2b
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, Generic, TypeVar

__all__ = ["ENTRY_OVERHEAD_BYTES", "Entry", "ResultCache", "keeps_response", "key"]

V = TypeVar("V")

# What an entry costs beside its key's and its value's bytes: 390 measured with tracemalloc over 100,000 entries (the
# entry, its numbers, its places in the index, the owner's set and the heap) and the headers of two bytes objects, 66.
ENTRY_OVERHEAD_BYTES: Final = 456

# One entry takes at most this share of the cache, so that a single result cannot empty it.
_LARGEST_SHARE: Final = 8
# Requests per entry after which a hit counts half: more rank better while popularity is constant, fewer follow its
# shifts. A detector of shifts that chose between 24 and 2 found at most 5% more hits (51.2% of the requests instead of
# 48.7% where the popularity of 10,000 objects was redrawn every 12,000 requests), and at most 3% on the other traces.
_HALF_LIFE: Final = 12
# A new entry must rank this much above what leaves. Without it, a loop longer than the cache replaces every entry by
# the next one; with it, loops up to log2(1.4) * 12 = 5.8 times the cache keep their hits.
_ADVANTAGE: Final = 1.4
# At most so many steps (an eviction or the correction of a score) per put, about 0.2 ms. A result that needs more is
# refused and, since its frequency is remembered, enters after one of its next misses.
_STEPS: Final = 256
# One remembered frequency (16 bytes) per this many bytes of cache: one to two per entry of small results, more per
# entry of large ones, for 3% of the memory.
_BYTES_PER_MEMORY: Final = 512
# 2**300 is far from a double's limit of 2**1023, with room for the sum of any number of hits.
_RESCALE_AT: Final = 300.0
_FIRST_ERROR: Final = 400  # of the statuses of HTTP


def key(version: str, content_type: str, accept: str, body: bytes | bytearray | memoryview) -> bytes:
    """The name of a result: 32 bytes that differ whenever version, content type, accepted type or body do.

    BLAKE2b-256 over the lengths of the three texts, the texts and the body: no two requests have the same input, and
    nobody can find two with the same digest, so that one client cannot poison another's answer.
    """
    digest = _prefix(version, content_type, accept).copy()
    digest.update(body)
    return digest.digest()


@lru_cache(maxsize=1024)
def _prefix(version: str, content_type: str, accept: str) -> blake2b:
    """The digest of the texts, which many requests share: copying it costs half as much as computing it."""
    head = f"{len(version)},{len(content_type)},{len(accept)},{version}{content_type}{accept}"
    return blake2b(head.encode("utf-8", "surrogatepass"), digest_size=32, person=b"clipper.result.1")


def keeps_response(status: int, headers: Sequence[tuple[str, str]]) -> bool:
    """Whether a response that a function made up itself may be kept: no error, and not one that forbids it
    (`Cache-Control: no-store`, `no-cache` or `private`, RFC 9111 §3)."""
    directives = ",".join(value.lower() for name, value in headers if name.lower() == "cache-control")
    return status < _FIRST_ERROR and not any(word in directives for word in ("no-store", "no-cache", "private"))


class Entry(Generic[V]):
    """A held result. Read it before the next await: a later put under the same key replaces its value in place."""

    __slots__ = ("expires_at", "held", "key", "owner", "score", "size", "value")

    def __init__(self, key: bytes, value: V, size: int, expires_at: float, owner: Hashable, score: float) -> None:
        self.key = key
        self.value: V | None = value  # None once it left the cache: a stale reference must not keep the bytes
        self.size = size  # bytes that count: value, key and overhead
        self.expires_at = expires_at
        self.owner = owner
        self.score = score  # decayed frequency per byte
        self.held = True


class ResultCache(Generic[V]):
    """A mapping from digests to results within `max_bytes`, with a lifetime per entry and an owner (its version).

    `now` is a monotonic time in seconds. Not safe for threads. Besides the entries, `max_bytes` covers the memory of
    frequencies, 3% of it.
    """

    __slots__ = (
        "_aged_at", "_entries", "_exponent", "_heap", "_mask", "_memory", "_overhead", "_owners", "_serial", "_tags",
        "_weight", "bytes", "capacity", "largest", "requests",
    )  # fmt: skip

    def __init__(self, max_bytes: int, *, overhead_bytes: int = ENTRY_OVERHEAD_BYTES) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes = {max_bytes!r} is not allowed: it must be at least 1")
        slots = 1 << max(1, (max_bytes // _BYTES_PER_MEMORY).bit_length() - 1)  # a power of two, at least 2
        self.capacity = max(0, max_bytes - 16 * slots)  # bytes for entries
        self.largest = self.capacity // _LARGEST_SHARE  # the most that one entry may count
        self.bytes = 0
        self.requests = 0
        self._overhead = overhead_bytes
        self._entries: dict[bytes, Entry[V]] = {}
        self._owners: dict[Hashable, set[Entry[V]]] = {}
        self._heap: list[tuple[float, int, Entry[V]]] = []  # (score as it was, serial, entry); some no longer held
        self._serial = 0
        self._weight = 1.0  # of a request now: 2 ** _exponent
        self._exponent = 0.0
        self._aged_at = 0
        # Frequencies of keys that are not held, in one of two places per hash; the tag, a hash, says whose (0: free).
        self._mask = slots - 1
        self._tags = array("q", bytes(8 * slots))
        self._memory = array("d", bytes(8 * slots))

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> Entry[V] | None:
        """The entry under `key` if it has not expired."""
        self.requests += 1
        entry = self._entries.get(key)
        if entry is None or entry.expires_at <= now:
            return None
        entry.score += self._weight / entry.size
        return entry

    def put(self, key: bytes, value: V, size: int, *, now: float, ttl_s: float, owner: Hashable = None) -> bool:
        """Offer a result of `size` bytes that may be used for `ttl_s`. Returns whether it is held now.

        Refused when it alone would take more than an eighth of the cache, when it ranks below what it would replace,
        or without a lifetime. A held result under the same key is replaced, or removed if the new one is refused.
        Raises ValueError for a negative size.
        """
        if size < 0:
            raise ValueError(f"size = {size!r} is not allowed: it must be at least 0")
        size += (len(key) + self._overhead) or 1
        self._age()
        entry = self._entries.get(key)
        if entry is not None:
            frequency = entry.score * entry.size + self._weight
            if size <= entry.size and ttl_s > 0:
                self._refresh(entry, value, size, now + ttl_s, owner, frequency / size)
                return True
            self._remove(entry)
        else:
            frequency = self._recall(hash(key)) + self._weight
        score = frequency / size
        if size > self.largest or ttl_s <= 0 or not self._make_room(size, score / _ADVANTAGE):
            self._remember(hash(key), frequency)
            return False
        self._insert(Entry(key, value, size, now + ttl_s, owner, score))
        return True

    def drop_owner(self, owner: Hashable) -> None:
        """Forget all entries of one owner: a version that no longer serves. Costs their number."""
        for entry in list(self._owners.get(owner, ())):
            self._remove(entry)

    def owned_bytes(self, owner: Hashable) -> int:
        """The bytes of one owner's entries. Costs their number."""
        return sum(entry.size for entry in self._owners.get(owner, ()))

    # The entries and their order ---------------------------------------------------------------------------------

    def _insert(self, entry: Entry[V]) -> None:
        self._entries[entry.key] = entry
        self._owners.setdefault(entry.owner, set()).add(entry)
        self._serial += 1
        heappush(self._heap, (entry.score, self._serial, entry))
        self.bytes += entry.size

    def _refresh(self, entry: Entry[V], value: V, size: int, expires_at: float, owner: Hashable, score: float) -> None:
        # The score only grows (more frequency over no more bytes), so the heap's older one stays a lower bound.
        self.bytes += size - entry.size
        entry.value, entry.size, entry.expires_at, entry.score = value, size, expires_at, score
        if owner != entry.owner:
            self._disown(entry)
            entry.owner = owner
            self._owners.setdefault(owner, set()).add(entry)

    def _remove(self, entry: Entry[V]) -> None:
        """Take a held entry out; its place in the heap stays until it reaches the top or the heap is rebuilt."""
        self._unlink(entry)
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._heap = [item for item in self._heap if item[2].held]
            heapify(self._heap)

    def _unlink(self, entry: Entry[V]) -> None:
        entry.held = False
        entry.value = None
        del self._entries[entry.key]
        self._disown(entry)
        self.bytes -= entry.size

    def _disown(self, entry: Entry[V]) -> None:
        owned = self._owners[entry.owner]
        owned.discard(entry)
        if not owned:
            del self._owners[entry.owner]

    def _make_room(self, size: int, below: float) -> bool:
        """Evict the lowest entries that score less than `below` until `size` bytes fit or the steps are spent."""
        heap, room = self._heap, self.capacity - size
        for _ in range(_STEPS):
            if self.bytes <= room:
                return True
            known, serial, entry = heap[0]  # bytes are held, so the heap is not empty
            if not entry.held:
                heappop(heap)
            elif entry.score > known:
                heapreplace(heap, (entry.score, serial, entry))
            elif entry.score >= below:
                return False
            else:
                heappop(heap)
                self._unlink(entry)
                self._remember(hash(entry.key), entry.score * entry.size)
        return self.bytes <= room

    # Frequencies -------------------------------------------------------------------------------------------------

    def _age(self) -> None:
        """Let a request weigh more than those before, by how many there were since the last put."""
        self._exponent += (self.requests - self._aged_at) / (_HALF_LIFE * max(64, len(self._entries)))
        self._aged_at = self.requests
        if self._exponent > _RESCALE_AT:
            # Every 300 half-lives: the only step whose cost is the number of entries.
            shrink = 2.0**-self._exponent
            for entry in self._entries.values():
                entry.score *= shrink
            self._heap = [(entry.score, serial, entry) for _, serial, entry in self._heap if entry.held]
            heapify(self._heap)
            self._memory = array("d", [frequency * shrink for frequency in self._memory])
            self._exponent = 0.0
        self._weight = 2.0**self._exponent

    def _remember(self, tag: int, frequency: float) -> None:
        """Keep the frequency of a key that is not held, instead of the lesser one of the two in its places."""
        place, memory = tag & self._mask, self._memory
        if memory[place ^ 1] < memory[place]:
            place ^= 1
        self._tags[place] = tag
        memory[place] = frequency

    def _recall(self, tag: int) -> float:
        """The remembered frequency, which moves with the key to its entry; 0.0 if none."""
        place = tag & self._mask
        if self._tags[place] != tag:
            place ^= 1
            if self._tags[place] != tag:
                return 0.0
        frequency = self._memory[place]
        self._tags[place], self._memory[place] = 0, 0.0
        return frequency
