from __future__ import annotations

import math

import pytest

from clipper_platform.core.caching import ENTRY_OVERHEAD_BYTES, ResultCache, keeps_response, key
from tests.support.cache_simulation import (
    Lru,
    Ours,
    S3Fifo,
    Trace,
    WTinyLfu,
    hit_ratios,
    make_trace,
    pfoo_upper,
)


def small(entries: int = 64) -> ResultCache[str]:
    """A cache with room for so many entries of 1,000 bytes (key of 4 bytes, value of 996, no overhead)."""
    cache = ResultCache[str](entries * 1100, overhead_bytes=0)
    cache.capacity = entries * 1000
    cache.largest = 8000
    return cache


def name(number: int) -> bytes:
    return number.to_bytes(4, "big")


def put(cache: ResultCache[str], number: int, *, now: float = 0.0, ttl_s: float = 10.0, owner: str = "v1") -> bool:
    return cache.put(name(number), f"value {number}", 996, now=now, ttl_s=ttl_s, owner=owner)


# Responses that a function made up itself -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "kept"),
    [
        *((200, (), True), (301, (), True), (400, (), False), (503, (), False)),
        *((200, (("cache-control", "public, max-age=5"),), True), (200, (("etag", "no-store"),), True)),
        *((200, (("Cache-Control", "No-Store"),), False), (200, (("cache-control", "max-age=1, private"),), False)),
    ],
)
def test_a_response_is_kept_unless_it_is_an_error_or_forbids_it(
    status: int, headers: tuple[tuple[str, str], ...], kept: bool
) -> None:
    assert keeps_response(status, headers) is kept


# Keys -----------------------------------------------------------------------------------------------------------------


def test_a_key_is_the_same_for_the_same_request_and_32_bytes_long() -> None:
    assert key("digits/classify@3", "application/json", "*/*", b"[1]") == key(
        "digits/classify@3", "application/json", "*/*", bytearray(b"[1]")
    )
    assert len(key("", "", "", memoryview(b""))) == 32


def test_moving_a_byte_from_one_field_to_the_next_makes_another_key() -> None:
    keys = {
        key("ab", "c", "d", b"e"),
        key("a", "bc", "d", b"e"),
        key("a", "b", "cd", b"e"),
        key("ab", "c", "", b"de"),
        key("ab", "", "cd", b"e"),
        key("", "abc", "d", b"e"),
        key("ab", "c", "d", b"f"),
        key("ab", "c", "d,", b"e"),
        key("1,ab", "c", "d", b"e"),
        key("äb", "c", "d", b"e"),
    }
    assert len(keys) == 10


def test_a_header_that_is_no_valid_unicode_has_a_key_too() -> None:
    assert key("v", "text/\udcff", "", b"") != key("v", "text/\udcfe", "", b"")


# Storing and finding --------------------------------------------------------------------------------------------------


def test_a_stored_value_is_found_until_its_time_is_over() -> None:
    cache = small()
    assert put(cache, 1, now=5.0, ttl_s=10.0)
    entry = cache.get(name(1), 14.9)
    assert entry is not None
    assert (entry.value, entry.owner, entry.expires_at, entry.size) == ("value 1", "v1", 15.0, 1000)
    assert cache.get(name(1), 15.0) is None
    assert cache.get(name(2), 5.0) is None


def test_an_entry_counts_its_value_its_key_and_its_overhead() -> None:
    cache = ResultCache[bytes](1 << 20)
    cache.put(b"k" * 32, b"x" * 100, 100, now=0.0, ttl_s=1.0, owner="v1")
    assert cache.bytes == 100 + 32 + ENTRY_OVERHEAD_BYTES


def test_a_new_value_under_the_same_key_replaces_the_old_one() -> None:
    cache = small()
    put(cache, 1)
    cache.put(name(1), "shorter", 496, now=3.0, ttl_s=10.0, owner="v2")
    entry = cache.get(name(1), 12.0)
    assert entry is not None
    assert (entry.value, entry.owner, cache.bytes, len(cache)) == ("shorter", "v2", 500, 1)
    cache.put(name(1), "longer", 1996, now=3.0, ttl_s=10.0, owner="v2")
    entry = cache.get(name(1), 12.0)
    assert entry is not None
    assert (entry.value, cache.bytes, len(cache)) == ("longer", 2000, 1)
    cache.drop_owner("v1")
    assert (cache.bytes, len(cache)) == (2000, 1)
    cache.drop_owner("v2")
    assert (cache.bytes, len(cache)) == (0, 0)


def test_an_expired_entry_comes_back_to_life_with_a_new_value() -> None:
    cache = small()
    put(cache, 1, now=0.0, ttl_s=1.0)
    assert cache.get(name(1), 2.0) is None
    put(cache, 1, now=2.0, ttl_s=1.0)
    assert cache.get(name(1), 2.5) is not None


def test_what_is_too_large_or_has_no_lifetime_is_refused_and_what_it_replaces_goes() -> None:
    cache = small()
    put(cache, 1)
    assert not cache.put(name(1), "", 8000, now=1.0, ttl_s=10.0)
    assert cache.get(name(1), 1.0) is None
    put(cache, 2)
    assert not put(cache, 2, ttl_s=0.0)
    assert cache.get(name(2), 1.0) is None
    assert (len(cache), cache.bytes) == (0, 0)


def test_one_entry_takes_at_most_an_eighth_of_the_cache() -> None:
    cache = ResultCache[str](80_000, overhead_bytes=0)
    assert not cache.put(b"key", "", cache.capacity // 8 - 2, now=0.0, ttl_s=1.0)
    assert cache.put(b"key", "", cache.capacity // 8 - 3, now=0.0, ttl_s=1.0)


@pytest.mark.parametrize("max_bytes", [0, -5])
def test_a_cache_of_no_bytes_is_refused(max_bytes: int) -> None:
    with pytest.raises(ValueError, match="max_bytes"):
        ResultCache[str](max_bytes)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        small().put(b"k", "", -1, now=0.0, ttl_s=1.0)


def test_a_cache_too_small_for_anything_holds_nothing() -> None:
    cache = ResultCache[str](1)
    assert not cache.put(b"k", "v", 1, now=0.0, ttl_s=1.0)
    assert len(cache) == 0


def test_an_entry_of_nothing_still_counts_a_byte() -> None:
    cache = ResultCache[str](1000, overhead_bytes=0)
    cache.put(b"", "", 0, now=0.0, ttl_s=1.0)
    assert (cache.bytes, cache.get(b"", 0.0) is not None) == (1, True)


def test_an_evicted_entry_lets_its_value_go() -> None:
    cache = small(2)
    put(cache, 1)
    entry = cache.get(name(1), 0.0)
    cache.drop_owner("v1")
    assert entry is not None
    assert (entry.value, entry.held) == (None, False)


# Leaving --------------------------------------------------------------------------------------------------------------


def test_dropping_a_version_takes_its_entries_and_no_others() -> None:
    cache = small()
    for number in range(30):
        put(cache, number, owner=f"v{number % 3}")
    cache.drop_owner("v1")
    assert [number for number in range(30) if cache.get(name(number), 1.0)] == [n for n in range(30) if n % 3 != 1]
    cache.drop_owner("v1")
    cache.drop_owner("never seen")
    assert (len(cache), cache.bytes) == (20, 20_000)


def test_entries_that_left_do_not_pile_up_behind_the_scenes() -> None:
    cache = small()
    for number in range(5000):
        put(cache, number, owner=str(number))
        cache.drop_owner(str(number))
    assert len(cache._heap) <= 2 * len(cache) + 65
    assert not cache._owners


def test_an_entry_that_left_early_is_passed_over_when_room_is_made() -> None:
    cache = small(8)
    for number in range(8):
        put(cache, number, owner="leaves" if number == 0 else "stays")
    cache.drop_owner("leaves")
    for _ in range(3):
        put(cache, 8)
    assert [put(cache, 9) for _ in range(2)] == [False, True]
    assert len(cache) == 8
    assert cache.get(name(8), 1.0) is not None


def test_the_bytes_of_one_version_are_known() -> None:
    cache = small()
    for number in range(9):
        put(cache, number, owner=f"v{number % 3}")
    assert cache.owned_bytes("v1") == 3000
    assert cache.owned_bytes("never seen") == 0


# The policy -----------------------------------------------------------------------------------------------------------


def test_the_least_frequent_entry_makes_room_for_one_that_was_asked_for_more_often() -> None:
    cache = small(8)
    for number in range(8):
        put(cache, number)
        for _ in range(number):
            cache.get(name(number), 1.0)
    cache.get(name(99), 1.0)
    assert not put(cache, 99)  # asked for once, as entry 0 was: no better
    cache.get(name(99), 1.0)
    assert put(cache, 99)  # twice, and that was remembered
    assert cache.get(name(0), 1.0) is None
    assert cache.get(name(1), 1.0) is not None
    assert len(cache) == 8


def test_of_equally_frequent_entries_the_large_one_goes_first() -> None:
    cache = small(8)
    cache.put(name(0), "large", 3996, now=0.0, ttl_s=10.0)
    for number in range(1, 5):
        put(cache, number)
    assert put(cache, 99)
    assert len(cache) == 5
    assert cache.get(name(0), 1.0) is None


def test_a_scan_leaves_what_is_used_in_place() -> None:
    cache = small(64)
    for number in range(64):
        put(cache, number)
        cache.get(name(number), 1.0)
    for number in range(1000, 1500):
        cache.get(name(number), 1.0)
        put(cache, number)
    assert sum(cache.get(name(number), 1.0) is not None for number in range(64)) == 64


def test_a_large_entry_gets_in_step_by_step_and_no_put_takes_long() -> None:
    cache = ResultCache[str](400_000, overhead_bytes=0)
    cache.capacity, cache.largest = 320_000, 40_000
    for number in range(32_000):
        cache.put(name(number), "", 6, now=0.0, ttl_s=1e9)
    evicted: list[int] = []
    cache.requests += 20_000_000  # everything else grows old
    while cache.get(b"large", 1.0) is None and len(evicted) < 60:
        before = len(cache)
        stored = cache.put(b"large", "large", 39_000, now=1.0, ttl_s=1e9)
        evicted.append(before + stored - len(cache))
    assert cache.get(b"large", 1.0) is not None
    assert len(evicted) > 2
    assert max(evicted) <= 256


def test_old_popularity_fades() -> None:
    cache = small(64)
    for number in range(64):
        put(cache, number)
        for _ in range(20):
            cache.get(name(number), 1.0)
    for _ in range(40_000):
        cache.get(b"none", 1.0)
    for _ in range(4):
        put(cache, 99)
    assert cache.get(name(99), 1.0) is not None


def test_frequencies_survive_any_number_of_requests() -> None:
    cache = small(64)
    for number in range(64):
        put(cache, number)
    for _ in range(5):
        cache.get(name(7), 1.0)
    cache.requests += 10**9  # as a year of traffic would
    put(cache, 200)
    put(cache, 201)
    assert len(cache) == 64
    assert all(math.isfinite(entry.score) for entry in cache._entries.values())
    scores = [score for score, _, _ in cache._heap]
    assert all(scores[(i - 1) // 2] <= scores[i] for i in range(1, len(scores)))
    assert (cache.get(name(200), 1.0) is not None, cache.get(name(201), 1.0) is not None) == (True, True)


def test_two_forgotten_keys_share_a_place_without_mixing_up() -> None:
    cache = small(8)
    tags = [0x10, 0x10 + 2 * (cache._mask + 1), 0x11, 0x10 + 4 * (cache._mask + 1)]
    cache._remember(tags[0], 3.0)
    cache._remember(tags[1], 5.0)
    assert cache._recall(tags[3]) == 0.0
    assert cache._recall(tags[1]) == 5.0
    assert cache._recall(tags[1]) == 0.0
    assert cache._recall(tags[0]) == 3.0
    cache._remember(tags[2], 4.0)
    cache._remember(tags[0], 4.5)
    cache._remember(tags[1], 1.0)  # takes the place of the lesser one
    assert [cache._recall(tag) for tag in (tags[2], tags[0], tags[1])] == [0.0, 4.5, 1.0]


# Against the published policies ---------------------------------------------------------------------------------------

ZIPF = [
    make_trace("zipf", "equal", objects=5000, requests=25_000, alpha=0.8),
    make_trace("zipf", "equal", objects=5000, requests=25_000, alpha=1.1),
    make_trace("zipf", "log-normal", objects=5000, requests=25_000),
]
POLLUTED = [
    make_trace("scan", "equal", objects=5000, requests=25_000),
    make_trace("one-hit", "log-normal", objects=5000, requests=25_000),
]


def ratios(trace: Trace) -> tuple[float, list[float]]:
    """Our hit ratio in a twentieth of the working set, and that of LRU, S3-FIFO and W-TinyLFU."""
    capacity = trace.working_set // 20
    ours = hit_ratios(Ours(capacity), trace, capacity)[0]
    assert ours < pfoo_upper(trace, capacity)[0]
    return ours, [hit_ratios(make(capacity), trace, capacity)[0] for make in (Lru, S3Fifo, WTinyLfu)]


@pytest.mark.parametrize("trace", ZIPF, ids=lambda trace: trace.name)
def test_on_zipf_the_hit_ratio_is_within_two_percent_of_the_best_published_policy_at_equal_bytes(trace: Trace) -> None:
    ours, peers = ratios(trace)
    assert ours > 0.98 * max(peers)


@pytest.mark.parametrize("trace", POLLUTED, ids=lambda trace: trace.name)
def test_under_scans_the_cache_is_far_better_than_lru_and_as_good_as_policies_made_for_them(trace: Trace) -> None:
    ours, peers = ratios(trace)
    assert ours > 1.15 * peers[0]
    assert ours > 0.94 * max(peers)


def test_a_loop_longer_than_the_cache_keeps_its_hits() -> None:
    trace = make_trace("loop", "equal", objects=1000, requests=20_000)
    capacity = trace.working_set // 2
    assert hit_ratios(Ours(capacity), trace, capacity)[0] > 0.35
    assert hit_ratios(Lru(capacity), trace, capacity)[0] == 0.0


def test_a_shift_of_popularity_is_followed() -> None:
    trace = make_trace("shift", "equal", objects=3000, requests=60_000)
    capacity = trace.working_set // 10
    assert hit_ratios(Ours(capacity), trace, capacity)[0] > hit_ratios(Lru(capacity), trace, capacity)[0]
