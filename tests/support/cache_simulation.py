"""Cache policies and synthetic traces, to compare `core.caching` with at equal bytes.

LRU; SIEVE (Zhang et al., NSDI '24); S3-FIFO (Yang et al., SOSP '23); W-TinyLFU (Einziger et al., 2017) with the
aggregated-victims admission of its size-aware successor (Einziger et al., 2022) and exact frequencies instead of a
sketch; LFU with dynamic ageing; GreedyDual-Size-Frequency (Cherkasova, 1998); and `ResultCache` itself. Offline, with
the future known: Belady's rule by size (evict what has the most bytes times time to its next use), and PFOO-U (Berger
et al., SIGMETRICS '18), which no policy can exceed.

For every policy an entry counts as it does for ResultCache: its value, its key and the overhead of keeping it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipper_platform.core.caching import ENTRY_OVERHEAD_BYTES, ResultCache

KEY_BYTES = 8
BESIDE_VALUE_BYTES = KEY_BYTES + ENTRY_OVERHEAD_BYTES

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """`keys`: object numbers in the order of requests; `sizes`: by object number, what its entry counts in bytes;
    `working_set`: the bytes of all objects that are requested again and again."""

    name: str
    keys: Ints
    sizes: Ints
    working_set: int


class CachePolicy(Protocol):
    def access(self, key: int, size: int) -> bool:
        """One request; True for a hit. A miss offers the object to the cache."""
        ...


class Lru:
    def __init__(self, capacity: int) -> None:
        self.capacity, self.bytes = capacity, 0
        self.held = OrderedDict[int, int]()

    def access(self, key: int, size: int) -> bool:
        if key in self.held:
            self.held.move_to_end(key)
            return True
        self.held[key] = size
        self.bytes += size
        while self.bytes > self.capacity:
            self.bytes -= self.held.popitem(last=False)[1]
        return False


class Sieve:
    """One queue that is never reordered; a hand goes from its tail to its head and spares what was visited."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.bytes = capacity, 0
        self.sizes: dict[int, int] = {}
        self.visited: dict[int, bool] = {}
        self.newer: dict[int, int | None] = {}
        self.older: dict[int, int | None] = {}
        self.head: int | None = None
        self.tail: int | None = None
        self.hand: int | None = None

    def access(self, key: int, size: int) -> bool:
        if key in self.sizes:
            self.visited[key] = True
            return True
        while self.bytes + size > self.capacity:
            self.evict()
        self.sizes[key], self.visited[key] = size, False
        self.bytes += size
        self.newer[key], self.older[key] = None, self.head
        if self.head is not None:
            self.newer[self.head] = key
        self.head = key
        if self.tail is None:
            self.tail = key
        return False

    def evict(self) -> None:
        at = self.hand if self.hand is not None else self.tail
        while at is not None and self.visited[at]:
            self.visited[at] = False
            at = self.newer[at] if self.newer[at] is not None else self.tail
        if at is None:
            raise RuntimeError("an empty cache was asked to evict")
        newer, older = self.newer.pop(at), self.older.pop(at)
        self.hand = newer
        if newer is None:
            self.head = older
        else:
            self.older[newer] = older
        if older is None:
            self.tail = newer
        else:
            self.newer[older] = newer
        self.bytes -= self.sizes.pop(at)
        del self.visited[at]


class S3Fifo:
    """A small queue (10%) that filters, a main one with second chances, and a ghost of what the small one dropped."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.small_capacity, self.ghost_capacity = capacity, capacity // 10, capacity * 9 // 10
        self.small, self.main, self.ghost = OrderedDict[int, int](), OrderedDict[int, int](), OrderedDict[int, int]()
        self.small_bytes = self.main_bytes = self.ghost_bytes = 0
        self.hits: dict[int, int] = {}

    def access(self, key: int, size: int) -> bool:
        if key in self.hits:
            self.hits[key] = min(3, self.hits[key] + 1)
            return True
        while self.small_bytes + self.main_bytes + size > self.capacity:
            self.evict()
        self.hits[key] = 0
        if key in self.ghost:
            self.ghost_bytes -= self.ghost.pop(key)
            self.main[key] = size
            self.main_bytes += size
        else:
            self.small[key] = size
            self.small_bytes += size
        return False

    def evict(self) -> None:
        if self.small_bytes <= self.small_capacity and self.main:
            self.evict_main()
            return
        key, size = self.small.popitem(last=False)
        self.small_bytes -= size
        if self.hits[key]:
            self.hits[key] = 0
            self.main[key] = size
            self.main_bytes += size
            return
        del self.hits[key]
        self.ghost[key] = size
        self.ghost_bytes += size
        while self.ghost_bytes > self.ghost_capacity:
            self.ghost_bytes -= self.ghost.popitem(last=False)[1]

    def evict_main(self) -> None:
        while True:
            key, size = self.main.popitem(last=False)
            if not self.hits[key]:
                del self.hits[key]
                self.main_bytes -= size
                return
            self.hits[key] -= 1
            self.main[key] = size


class WTinyLfu:
    """A window (1%) before a segmented LRU (80% protected); what leaves the window must be more frequent than the
    victims in its place together. Frequencies up to 15, halved every 10 requests per entry."""

    def __init__(self, capacity: int) -> None:
        self.window_capacity = capacity // 100
        self.main_capacity = capacity - self.window_capacity
        self.protected_capacity = self.main_capacity * 8 // 10
        self.window, self.probation, self.protected = (OrderedDict[int, int]() for _ in range(3))
        self.window_bytes = self.probation_bytes = self.protected_bytes = 0
        self.frequency: dict[int, int] = {}
        self.requests = 0

    def access(self, key: int, size: int) -> bool:
        self.count(key)
        if key in self.protected:
            self.protected.move_to_end(key)
            return True
        if key in self.window:
            self.window.move_to_end(key)
            return True
        if key in self.probation:
            self.protect(key)
            return True
        self.window[key] = size
        self.window_bytes += size
        while self.window_bytes > self.window_capacity:
            old, old_size = self.window.popitem(last=False)
            self.window_bytes -= old_size
            self.admit(old, old_size)
        return False

    def count(self, key: int) -> None:
        self.frequency[key] = min(15, self.frequency.get(key, 0) + 1)
        self.requests += 1
        if self.requests >= 10 * max(64, len(self.window) + len(self.probation) + len(self.protected)):
            self.frequency = {k: n >> 1 for k, n in self.frequency.items() if n > 1}
            self.requests = 0

    def protect(self, key: int) -> None:
        size = self.probation.pop(key)
        self.probation_bytes -= size
        self.protected[key] = size
        self.protected_bytes += size
        while self.protected_bytes > self.protected_capacity:
            old, old_size = self.protected.popitem(last=False)
            self.protected_bytes -= old_size
            self.probation[old] = old_size
            self.probation_bytes += old_size

    def admit(self, key: int, size: int) -> None:
        free = self.main_capacity - self.probation_bytes - self.protected_bytes
        frequency, against = self.frequency.get(key, 0), 0
        victims: list[tuple[OrderedDict[int, int], int]] = []
        for queue in (self.probation, self.protected):
            for victim, victim_size in queue.items():
                if free >= size or against >= frequency:
                    break
                victims.append((queue, victim))
                against += self.frequency.get(victim, 0)
                free += victim_size
        if free < size or (victims and against >= frequency):
            if victims:
                victims[0][0].move_to_end(victims[0][1])
            return
        for queue, victim in victims:
            if queue is self.probation:
                self.probation_bytes -= queue.pop(victim)
            else:
                self.protected_bytes -= queue.pop(victim)
        self.probation[key] = size
        self.probation_bytes += size


class Gdsf:
    """Evict the least of clock + frequency / size; the clock is the rank of what was evicted last."""

    exponent = 1.0

    def __init__(self, capacity: int) -> None:
        self.capacity, self.bytes, self.clock = capacity, 0, 0.0
        self.heap: list[tuple[float, int]] = []
        self.held: dict[int, list[float]] = {}  # key -> [rank, hits, size]

    def access(self, key: int, size: int) -> bool:
        entry = self.held.get(key)
        if entry is not None:
            entry[1] += 1
            entry[0] = self.clock + entry[1] / entry[2] ** self.exponent
            return True
        while self.bytes + size > self.capacity:
            self.evict()
        rank = self.clock + 1 / size**self.exponent
        self.held[key] = [rank, 1, size]
        heappush(self.heap, (rank, key))
        self.bytes += size
        return False

    def evict(self) -> None:
        while True:
            known, key = self.heap[0]
            rank = self.held[key][0]
            if rank <= known:
                break
            heapreplace(self.heap, (rank, key))
        heappop(self.heap)
        self.bytes -= int(self.held.pop(key)[2])
        self.clock = known


class LfuAged(Gdsf):
    """Sizes ignored: LFU with dynamic ageing."""

    exponent = 0.0


class Ours:
    """The real thing, whose capacity includes its memory of frequencies."""

    def __init__(self, capacity: int) -> None:
        self.cache = ResultCache[None](capacity)

    def access(self, key: int, size: int) -> bool:
        name = key.to_bytes(KEY_BYTES, "little")
        if self.cache.get(name, 0.0) is not None:
            return True
        self.cache.put(name, None, size - BESIDE_VALUE_BYTES, now=0.0, ttl_s=math.inf)
        return False


POLICIES: dict[str, Callable[[int], CachePolicy]] = {
    "LRU": Lru,
    "SIEVE": Sieve,
    "S3-FIFO": S3Fifo,
    "W-TinyLFU": WTinyLfu,
    "LFU-DA": LfuAged,
    "GDSF": Gdsf,
    "ResultCache": Ours,
}


def hit_ratios(policy: CachePolicy, trace: Trace, capacity: int) -> tuple[float, float]:
    """The shares of requests and of bytes that hit. What is larger than the cache is a miss for all."""
    access, sizes = policy.access, trace.sizes.tolist()
    hits = hit_bytes = 0
    for key in trace.keys.tolist():
        size = sizes[key]
        if size <= capacity and access(key, size):
            hits += 1
            hit_bytes += size
    return hits / len(trace.keys), hit_bytes / float(trace.sizes[trace.keys].sum())


def next_uses(keys: Ints) -> Ints:
    """For each request the index of the next one for the same object; the trace's length if there is none."""
    order = np.argsort(keys, kind="stable")
    following = np.full(len(keys), len(keys), dtype=np.int64)
    same = keys[order[1:]] == keys[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    return following


def belady(trace: Trace, capacity: int) -> tuple[float, float]:
    """Evict what has the most bytes times time to its next use, the newcomer included.

    Belady's optimum with equal sizes; with others not optimal, but hard to beat. Among sizes within a factor of 1.4
    only the next use decides, so that one heap for each such class is enough.
    """
    sizes, following = trace.sizes.tolist(), next_uses(trace.keys).tolist()
    classes = [int(2 * math.log2(size)) for size in sizes]
    heaps: dict[int, list[tuple[int, int]]] = {}  # class -> (-next use, key), some of them outdated
    held: dict[int, int] = {}  # key -> its next use
    used = hits = hit_bytes = 0
    for now, key in enumerate(trace.keys.tolist()):
        if key in held:
            hits += 1
            hit_bytes += sizes[key]
        elif sizes[key] > capacity:
            continue
        else:
            used += sizes[key]
        held[key] = following[now]
        heappush(heaps.setdefault(classes[key], []), (-following[now], key))
        while used > capacity:
            victim = _furthest(heaps, held, sizes, now, len(following))
            used -= sizes[victim]
            del held[victim]
    return hits / len(following), hit_bytes / float(trace.sizes[trace.keys].sum())


def _furthest(
    heaps: dict[int, list[tuple[int, int]]], held: dict[int, int], sizes: list[int], now: int, end: int
) -> int:
    best, victim = -1.0, -1
    for heap in heaps.values():
        while heap and held.get(heap[0][1]) != -heap[0][0]:
            heappop(heap)
        if heap:
            use, key = -heap[0][0], heap[0][1]
            rank = math.inf if use >= end else float(use - now) * sizes[key]
            if rank > best:
                best, victim = rank, key
    return victim


def pfoo_upper(trace: Trace, capacity: int) -> tuple[float, float]:
    """No policy hits more: keep the cheapest intervals between uses until the cache's bytes times time are spent."""
    following = next_uses(trace.keys)
    again = following < len(following)
    lengths = (following - np.arange(len(following)))[again]
    sizes = trace.sizes[trace.keys[again]].astype(np.float64)
    bound = []
    for gain in (np.ones_like(sizes), sizes):
        cost = lengths * sizes
        order = np.argsort(cost / gain, kind="stable")
        kept = np.searchsorted(np.cumsum(cost[order]), float(capacity) * len(following))
        bound.append(float(gain[order][:kept].sum()))
    return bound[0] / len(following), bound[1] / float(trace.sizes[trace.keys].sum())


# Traces -------------------------------------------------------------------------------------------------------------


def zipf(rng: np.random.Generator, objects: int, alpha: float, requests: int) -> Ints:
    """Independent requests; the i-th most popular object has a share proportional to 1 / i**alpha."""
    shares = np.cumsum(1.0 / np.arange(1, objects + 1) ** alpha)
    ranks = np.searchsorted(shares / shares[-1], rng.random(requests))
    return rng.permutation(objects)[np.minimum(ranks, objects - 1)].astype(np.int64)


def sizes_of(rng: np.random.Generator, objects: int, kind: str) -> Ints:
    """1,000 bytes each; 200 or 200,000; or log-normal, mean 1,000 (sigma 1.5: 1% above 10,000, the median 325)."""
    if kind == "equal":
        return np.full(objects, 1000, dtype=np.int64)
    if kind == "1000-fold":
        return np.where(rng.random(objects) < 0.5, 200, 200_000).astype(np.int64)
    drawn = rng.lognormal(math.log(1000) - 1.5**2 / 2, 1.5, objects)
    return np.maximum(1, drawn).astype(np.int64)


def make_trace(kind: str, sizes: str, *, objects: int, requests: int, alpha: float = 0.9) -> Trace:
    rng = np.random.default_rng(7)
    keys = zipf(rng, objects, alpha, requests)
    name = f"Zipf {alpha:g}, {objects:,} objects"
    if kind == "scan":  # one request in three belongs to a scan of objects that never come again
        name = f"Zipf {alpha:g} and scans"
        length = requests // 15
        for start in range(0, requests - length, 3 * length):
            keys[start : start + length] = np.arange(length) + objects + start
    elif kind == "one-hit":
        name = f"Zipf {alpha:g}, 40% one-hit wonders"
        once = rng.random(requests) < 0.4
        keys[once] = objects + np.flatnonzero(once)
    elif kind == "loop":
        name = f"Loop over {objects:,} objects"
        keys = np.arange(requests, dtype=np.int64) % objects
    elif kind == "shift":
        name = f"Zipf {alpha:g}, popularity redrawn 5 times"
        keys = np.concatenate([zipf(rng, objects, alpha, requests // 5) for _ in range(5)])
    sized = BESIDE_VALUE_BYTES + sizes_of(rng, objects + requests if kind in ("scan", "one-hit") else objects, sizes)
    return Trace(name=f"{name}; {sizes}", keys=keys, sizes=sized, working_set=int(sized[:objects].sum()))
