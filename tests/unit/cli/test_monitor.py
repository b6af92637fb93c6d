from __future__ import annotations

from typing import Any

import pytest

from clipper.cli.exposition import parse
from clipper.cli.monitor import Monitor, Reading, Row, spark


def project(name: str = "p", *functions: str, version: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "functions": [
            {"name": f, "state": "ready", "replicas_ready": 1, "replicas_wanted": 2, **more} for f in functions or ["f"]
        ],
    }


def counters(function: str = "p/f", *, version: int = 1, ok: int = 0, **codes: int) -> str:
    lines = [f'clip_invocations_total{{function="{function}",version="{version}",code="200"}} {ok}']
    lines += [
        f'clip_invocations_total{{function="{function}",version="{version}",code="{code[1:]}"}} {n}'
        for code, n in codes.items()
    ]
    return "\n".join(lines) + "\n"


def reading(at: float, text: str, *projects: dict[str, Any]) -> Reading:
    return Reading(at, parse(text), projects or (project(),))


def seen(*readings: Reading) -> list[Row]:
    monitor = Monitor()
    for one in readings:
        monitor.take(one)
    return monitor.rows


def test_one_reading_says_nothing_about_rates() -> None:
    assert seen(reading(0.0, counters(ok=5))) == []


def test_a_rate_is_the_growth_since_the_reading_before() -> None:
    row = seen(reading(0, counters(ok=100)), reading(1, counters(ok=100)), reading(3, counters(ok=160)))[0]
    assert (row.function, row.rate_per_s, row.errors_per_s) == ("p/f", 30.0, 0.0)
    assert (row.replicas_ready, row.replicas_wanted, row.version) == (1, 2, 1)


def test_errors_are_what_the_caller_cannot_help() -> None:
    before = counters(ok=0, c400=0, c422=0, c429=0, c499=0, c500=0, c504=0)
    after = counters(ok=10, c400=1, c422=2, c429=4, c499=8, c500=16, c504=32)
    row = seen(reading(0, before), reading(1, after))[0]
    assert (row.rate_per_s, row.errors_per_s) == (73.0, 52.0)


def test_the_versions_of_a_function_count_together_while_one_replaces_the_other() -> None:
    before = counters(version=1, ok=50)
    after = counters(version=1, ok=60) + counters(version=2, ok=5)
    row = seen(reading(0, before), reading(1, after, project(version=2)))[0]
    assert (row.rate_per_s, row.version) == (15.0, 2)
    # The old version's series go with it, which is no negative rate.
    row = seen(reading(0, after), reading(1, counters(version=2, ok=9), project(version=2)))[0]
    assert row.rate_per_s == 4.0


def test_ratios_are_taken_over_ten_seconds_and_rates_over_one_interval() -> None:
    def at(n: int) -> Reading:
        text = (
            counters(ok=min(n, 5) * 10)
            + f'clip_batch_size_sum{{function="p/f",version="1"}} {min(n, 5) * 12}\n'
            + f'clip_batch_size_count{{function="p/f",version="1"}} {min(n, 5) * 2}\n'
            + 'clip_batch_limit{function="p/f",version="1"} 32\nclip_batch_limit{function="p/f",version="7"} 64\n'
            + f'clip_cache_requests_total{{function="p/f",result="hit"}} {min(n, 5) * 3}\n'
            + f'clip_cache_requests_total{{function="p/f",result="collapsed"}} {min(n, 5)}\n'
        )
        return reading(float(n), text)

    row = seen(*map(at, range(9)))[0]
    assert row.rate_per_s == 0.0
    assert (row.batch_size, row.batch_limit, row.cache_hit_ratio) == (6.0, 32, 0.75)
    row = seen(*map(at, range(30)))[0]
    assert (row.batch_size, row.batch_limit, row.cache_hit_ratio) == (None, 32, None)


def test_gauges_are_those_of_the_last_reading() -> None:
    text = 'clip_queue_depth{function="p/f",version="1"} 3\nclip_running{function="p/f",version="1"} 2\n'
    row = seen(reading(0, ""), reading(1, text))[0]
    assert (row.queue_depth, row.running) == (3, 2)


def test_percentiles_are_the_platforms_own_where_it_gave_them_and_estimates_elsewhere() -> None:
    name = 'clip_invocation_duration_seconds_bucket{function="p/f",version="1",le="%s"} %d\n'
    before = counters() + "".join(name % (le, 0) for le in ("0.001", "0.01", "+Inf"))
    after = counters(ok=10) + name % ("0.001", 0) + name % ("0.01", 10) + name % ("+Inf", 10)
    row = seen(reading(0, before), reading(1, after))[0]
    assert row.p50_s == pytest.approx(0.00316, rel=0.01)
    exact = project(latency={"p50_s": 0.004, "p99_s": 0.008})
    row = seen(reading(0, before), reading(1, after, exact))[0]
    assert (row.p50_s, row.p99_s) == (0.004, 0.008)
    cached = after + 'clip_cache_requests_total{function="p/f",result="hit"} 9\n'
    row = seen(reading(0, before), reading(1, cached, exact))[0]
    assert row.p50_s == pytest.approx(0.00316, rel=0.01)
    # An hour ago is not now.
    row = seen(reading(0, before), reading(1, before, exact))[0]
    assert (row.p50_s, row.p99_s) == (None, None)


def test_the_busiest_come_first_and_the_idle_by_name() -> None:
    there = project("p", "a", "b", "c"), project("o", "z")
    before = "".join(counters(f"p/{f}") for f in "abc")
    after = counters("p/a") + counters("p/b", ok=1) + counters("p/c", ok=9)
    rows = seen(reading(0, before, *there), reading(1, after, *there))
    assert [row.function for row in rows] == ["p/c", "p/b", "o/z", "p/a"]


def test_a_function_that_is_gone_has_no_row_and_its_history_ends() -> None:
    monitor = Monitor()
    monitor.take(reading(0, counters()))
    monitor.take(reading(1, counters(ok=5)))
    assert monitor.history("p/f") == ((1, 5.0),)
    for second in range(2, 70):
        monitor.take(Reading(float(second), {}, ()))
    assert monitor.rows == []
    assert monitor.history("p/f") == ()
    assert len(monitor.history()) == 60


def test_a_spark_line_covers_the_last_minute() -> None:
    assert spark([], 100.0, 6) == "      "
    steady = [(float(second), 10.0) for second in range(41, 101)]
    assert spark(steady, 100.0, 6) == "██████"
    assert spark([(second, 0.0) for second, _ in steady], 100.0, 6) == "▁▁▁▁▁▁"
    grows = [(second, second - 40) for second, _ in steady]
    bars = spark(grows, 100.0, 6)
    assert list(bars) == sorted(bars)
    assert bars[-1] == "█"


def test_in_a_spark_line_little_traffic_is_not_none_and_gaps_are_bridged() -> None:
    assert spark([(45.0, 1000.0), (95.0, 0.001)], 100.0, 6) == "█████▂"
    assert spark([(95.0, 5.0)], 100.0, 6) == "     █"
