"""What a scrape gets: read back by Prometheus' own parser."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from clipper_platform.metrics import Histogram, Metrics


def scrape(metrics: Metrics) -> dict[str, list[tuple[str, dict[str, str], float]]]:
    families = text_string_to_metric_families(b"".join(metrics.slices()).decode())
    return {f.name: [(s.name, s.labels, s.value) for s in f.samples] for f in families}


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])))
def test_labels_of_any_text_and_their_values_are_read_back(name: str) -> None:
    metrics = Metrics()
    metrics.invocations.child(name, "1", "200").inc(3)
    metrics.queue_depth.callback = lambda: [((name, "1"), 2.0)]
    found = scrape(metrics)
    assert found["clip_invocations"] == [
        ("clip_invocations_total", {"function": name, "version": "1", "code": "200"}, 3.0)
    ]
    assert found["clip_queue_depth"] == [("clip_queue_depth", {"function": name, "version": "1"}, 2.0)]


def test_a_line_break_or_a_quote_in_a_label_stays_in_it() -> None:
    metrics = Metrics()
    metrics.loop_errors.child('a"b\\c\nd').inc()
    assert scrape(metrics)["clip_loop_errors"] == [("clip_loop_errors_total", {"loop": 'a"b\\c\nd'}, 1.0)]


def test_a_histogram_counts_upwards_to_all_and_sums() -> None:
    metrics = Metrics()
    child = metrics.batch_size.child("p/f", "1")
    child.observe(1)
    child.observe_all([3, 5000])
    samples = scrape(metrics)["clip_batch_size"]
    buckets = {labels["le"]: value for name, labels, value in samples if name.endswith("_bucket")}
    assert (buckets["1.0"], buckets["2.0"], buckets["4.0"], buckets["1024.0"], buckets["+Inf"]) == (1, 1, 2, 2, 3)
    assert [value for name, _, value in samples if name.endswith(("_count", "_sum"))] == [3, 5004]


@pytest.mark.parametrize("value", [0.0, 1e-9, 1.5, 123456789.0, 1e22, math.inf, -math.inf, math.nan])
def test_any_number_is_read_back(value: float) -> None:
    metrics = Metrics()
    metrics.cache_bytes.child().set(value)
    ((_, labels, found),) = scrape(metrics)["clip_cache_bytes"]
    assert labels == {}
    assert found == value or (math.isnan(found) and math.isnan(value))


def test_what_is_asked_for_is_told_as_it_is_at_the_scrape() -> None:
    metrics = Metrics()
    counts = {"ready": 1, "starting": 0}
    metrics.replicas.callback = lambda: ((('p/"f', "1", state), n) for state, n in counts.items())
    counts["ready"] = 2
    assert scrape(metrics)["clip_replicas"] == [
        ("clip_replicas", {"function": 'p/"f', "version": "1", "state": state}, n)
        for state, n in (("ready", 2.0), ("starting", 0.0))
    ]


def test_nobody_waits_for_long_while_thousands_are_asked() -> None:
    metrics = Metrics()
    metrics.running.callback = lambda: (((f"p/f{n}", "1"), n) for n in range(10_000))
    *ours, _ = (part.count(b"\n") for part in metrics.slices())  # the last part is the library's
    assert sum(ours) > 10_000
    assert max(ours) < 4000


def test_a_version_that_is_forgotten_leaves_no_series_and_takes_nobody_elses() -> None:
    metrics = Metrics()
    for function, version in (("p/f", "1"), ("p/f", "2"), ("p/g", "1")):
        metrics.invocations.child(function, version, "200").inc()
        metrics.duration.child(function, version).observe(0.1)
    metrics.forget("p/f", 1)
    metrics.forget("p/f", 3)
    assert list(metrics.duration.children) == [("p/f", "2"), ("p/g", "1")]
    assert list(metrics.invocations.children) == [("p/f", "2", "200"), ("p/g", "1", "200")]


def test_every_family_is_told_once_with_its_help_and_type_and_the_process_beside_them() -> None:
    metrics = Metrics()
    for family in metrics.families():
        family.child(*("x" for _ in family.labels))
    families = {f.name: f for f in text_string_to_metric_families(b"".join(metrics.slices()).decode())}
    for ours in metrics.families():
        parsed = families[ours.name]
        assert parsed.documentation == ours.help
        assert (parsed.type == "histogram") == isinstance(ours.make(), Histogram)
    for gauge in metrics.observables():
        assert (families[gauge.name].documentation, families[gauge.name].type) == (gauge.help, "gauge")
    assert "process_resident_memory_bytes" in families


def test_a_scrape_of_many_functions_comes_in_pieces() -> None:
    metrics = Metrics()
    for n in range(1000):
        metrics.duration.child(f"p/f{n}", "1").observe(0.1)
    assert max(part.count(b"\n") for part in metrics.slices()) < 1200


def test_what_changes_between_two_pieces_does_no_harm() -> None:
    metrics = Metrics()
    for n in range(200):
        metrics.duration.child(f"p/f{n}", "1").observe(0.1)
    slices = []
    for n, part in enumerate(metrics.slices()):
        slices.append(part)
        metrics.duration.child(f"q/f{n}", "1").observe(0.1)
        metrics.forget(f"p/f{n}", 1)
    families = {f.name: f for f in text_string_to_metric_families(b"".join(slices).decode())}
    counts = {
        s.labels["function"] for s in families["clip_invocation_duration_seconds"].samples if s.name.endswith("_count")
    }
    assert {f"p/f{n}" for n in range(len(slices), 200)} <= counts
    assert metrics.duration.children.keys() == {(f"p/f{n}", "1") for n in range(len(slices), 200)} | {
        (f"q/f{n}", "1") for n in range(len(slices))
    }
