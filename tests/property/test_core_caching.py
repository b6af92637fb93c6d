from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from clipper_platform.core.caching import ResultCache, key

KEYS = st.integers(0, 40).map(lambda number: bytes([number]) * 3)
OWNERS = st.sampled_from(["v1", "v2", "v3"])


class CacheModel(RuleBasedStateMachine):
    """A dict that remembers everything: the cache may have lost a value, but never has another one."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.serial = 0
        self.model: dict[bytes, tuple[int, float, str]] = {}  # key -> value, until when, whose

    @initialize(max_bytes=st.sampled_from([50, 400, 3000, 20_000]), overhead=st.sampled_from([0, 7, 100]))
    def make(self, max_bytes: int, overhead: int) -> None:
        self.cache = ResultCache[int](max_bytes, overhead_bytes=overhead)
        self.max_bytes = max_bytes

    @rule(name=KEYS, size=st.integers(0, 500), ttl_s=st.sampled_from([0.0, 1.0, 5.0, 100.0]), owner=OWNERS)
    def put(self, name: bytes, size: int, ttl_s: float, owner: str) -> None:
        self.serial += 1
        if self.cache.put(name, self.serial, size, now=self.now, ttl_s=ttl_s, owner=owner):
            self.model[name] = (self.serial, self.now + ttl_s, owner)
            assert self.cache.get(name, self.now) is not None
        else:
            self.model.pop(name, None)
            assert name not in self.cache._entries

    @rule(name=KEYS, times=st.integers(1, 30))
    def get(self, name: bytes, times: int) -> None:
        for _ in range(times):
            entry = self.cache.get(name, self.now)
            if entry is not None:
                assert (entry.value, entry.expires_at, entry.owner) == self.model[name]
                assert entry.expires_at > self.now
                assert entry.held

    @rule(seconds=st.sampled_from([0.5, 2.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(owner=OWNERS)
    def drop_owner(self, owner: str) -> None:
        expected = [entry for entry in self.cache._entries.values() if entry.owner == owner]
        assert self.cache.owned_bytes(owner) == sum(entry.size for entry in expected)
        before = len(self.cache), self.cache.bytes
        self.cache.drop_owner(owner)
        dropped = before[0] - len(self.cache), before[1] - self.cache.bytes
        assert dropped == (len(expected), sum(entry.size for entry in expected))
        self.model = {name: kept for name, kept in self.model.items() if kept[2] != owner}

    @rule(requests=st.sampled_from([10, 1000, 10**7]))
    def time_passes_in_requests(self, requests: int) -> None:
        self.cache.requests += requests

    @invariant()
    def bytes_never_exceed_the_bound(self) -> None:
        entries = self.cache._entries.values()
        assert self.cache.bytes == sum(entry.size for entry in entries)
        assert self.cache.bytes <= self.cache.capacity <= self.max_bytes
        assert all(entry.size <= self.cache.capacity / 8 for entry in entries)

    @invariant()
    def the_indexes_agree(self) -> None:
        cache = self.cache
        assert {entry for owned in cache._owners.values() for entry in owned} == set(cache._entries.values())
        assert all(entry.owner == owner for owner, owned in cache._owners.items() for entry in owned)
        assert all(cache._owners.values())
        ranked = [entry for _, _, entry in cache._heap if entry.held]
        assert sorted(entry.key for entry in ranked) == sorted(cache._entries)
        assert all(known <= entry.score for known, _, entry in cache._heap if entry.held)
        assert len(cache._heap) <= 2 * len(cache) + 65


TestCacheModel = CacheModel.TestCase
TestCacheModel.settings = settings(max_examples=40, stateful_step_count=30)

texts = st.text(max_size=12)


@given(first=st.tuples(texts, texts, texts, st.binary(max_size=12)), second=st.tuples(texts, texts, texts, st.binary()))
def test_two_requests_have_the_same_key_only_if_they_are_the_same(
    first: tuple[str, str, str, bytes], second: tuple[str, str, str, bytes]
) -> None:
    assert (key(*first) == key(*second)) == (first == second)


@given(fields=st.tuples(texts, texts, texts, st.binary(max_size=12)), cut=st.integers(0, 48))
def test_the_same_bytes_cut_into_other_fields_make_another_key(fields: tuple[str, str, str, bytes], cut: int) -> None:
    version, content_type, accept, body = fields
    joined = version + content_type
    other = (joined[:cut], joined[cut:], accept, body)
    assert (key(*fields) == key(*other)) == (fields == other)
