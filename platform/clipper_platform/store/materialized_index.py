"""Which versions of which functions have answers, in memory: a filter for each, not the answers."""

from __future__ import annotations

from collections.abc import Iterable

from clipper_platform.core.bloom import Bloom

__all__ = ["Generation", "GenerationIndex"]


class Generation:
    """The answers of one version of a function. `complete`: a job of this version came to its end. `stale`: "serve" if
    they may be given while a newer version is not complete."""

    __slots__ = ("_filter", "added", "complete", "count", "id", "identity", "path", "size", "stale", "version")

    def __init__(
        self, id: int, path: str, version: int, identity: str, stale: str, complete: int, count: int, size: int
    ) -> None:
        self.id = id
        self.path = path
        self.version = version
        self.identity = identity
        self.stale = stale
        self.complete = bool(complete)
        self.count = count
        self.size = size
        self.added: list[bytes] = []  # digests that came while the filter was not there yet
        self._filter: Bloom | None = None

    def filled(self, known: Bloom) -> None:
        """`known` has all digests of now."""
        self._filter, self.added = known, []

    def grow(self, digests: Iterable[bytes], count: int, size: int) -> None:
        self.count += count
        self.size += size
        if self._filter is None:
            self.added.extend(digests)
        else:
            for digest in digests:
                self._filter.add(digest)

    def perhaps_has(self, digest: bytes) -> bool:
        return self._filter is None or digest in self._filter


class GenerationIndex:
    """All generations, those of a function with the newest version first."""

    def __init__(self) -> None:
        self._of: dict[str, list[Generation]] = {}

    @property
    def size(self) -> int:
        """In bytes, of all answers."""
        return sum(generation.size for generation in self.all())

    def all(self) -> list[Generation]:
        return [generation for found in self._of.values() for generation in found]

    def add(self, generation: Generation) -> None:
        found = self._of.setdefault(generation.path, [])
        found.append(generation)
        found.sort(key=lambda g: -g.version)

    def remove(self, generation: Generation) -> None:
        found = self._of.get(generation.path, [])
        if generation in found:
            found.remove(generation)
        if not found:
            self._of.pop(generation.path, None)

    def of(self, path: str, version: int) -> Generation | None:
        return next((g for g in self._of.get(path, ()) if g.version == version), None)

    def set_stale(self, path: str, stale: str) -> None:
        for generation in self._of.get(path, ()):
            generation.stale = stale

    def for_version(self, path: str, version: int, identity: str) -> list[Generation]:
        """Where to look for an answer of this version: its own, then older ones while they may be given."""
        own = self.of(path, version)
        if own is not None and own.identity != identity:
            own = None  # of another version that had the number
        if own is not None and own.complete:
            return [own]
        older = [g for g in self._of.get(path, ()) if g.version < version and g.stale == "serve"]
        return older if own is None else [own, *older]

    def beyond(self, path: str, versions: int) -> list[Generation]:
        """All but the newest so many versions of a function."""
        return self._of.get(path, [])[versions:]

    def paths(self) -> set[str]:
        return set(self._of)

    def oldest_before(self, generation: Generation) -> Generation | None:
        """What gives way first for a generation: older ones of its function, then older ones of all."""
        others = [g for g in self.all() if g is not generation and g.id < generation.id]
        own = [g for g in others if g.path == generation.path]
        return min(own or others, key=lambda g: g.id, default=None)
