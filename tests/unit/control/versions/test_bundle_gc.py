"""Bundles that nothing refers to are removed, and counted."""

from __future__ import annotations

from clipper_platform.control.holding import Freed, Holding
from clipper_platform.control.versions.bundle_gc import GRACE_S, UPLOAD_GRACE_S, BundleGarbageCollector
from tests.unit.control.doubles import FakeArtifacts, FakeClock, Gates


def shelf() -> tuple[FakeArtifacts, BundleGarbageCollector, set[str]]:
    artifacts, wanted = FakeArtifacts(Gates()), {"a"}
    artifacts.known = {"a": 1, "b": 2, "c": 4}
    return artifacts, BundleGarbageCollector(artifacts, lambda: wanted, FakeClock(1000.0)), wanted


async def test_a_round_removes_what_nothing_refers_to_after_the_grace() -> None:
    artifacts, collector, wanted = shelf()
    wanted.add("b")
    assert (await collector.collect()).count == 1
    assert artifacts.known.keys() == {"a", "b"}
    assert artifacts.min_age_s == GRACE_S


async def test_a_clean_waits_for_no_more_than_an_upload_and_counts_unpacked_files() -> None:
    artifacts, collector, _ = shelf()
    assert await collector.collect(at_once=True) == Freed(count=2, bytes=2006)
    assert artifacts.min_age_s == UPLOAD_GRACE_S


async def test_a_bundle_that_was_just_uploaded_is_not_unused() -> None:
    artifacts, collector, _ = shelf()
    artifacts.used_at["b"] = 1000.0 - UPLOAD_GRACE_S + 1
    assert await collector.holding() == Holding(count=3, bytes=3007, unused_count=1, unused_bytes=1004)
