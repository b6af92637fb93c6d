from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.support.terminal import clip

POLICY = """
target_queue_depth = 2
max_replicas = 12
[[schedule]]
cron = "0 8 * * MON-FRI"
duration_s = 36000
min_replicas = 2
timezone = "Europe/Berlin"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "autoscaling.toml"
    path.write_text(POLICY)
    return path


def test_a_simulation_prints_a_table_and_draws(file: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "out.svg"
    done = clip(
        "policy", "simulate", str(file), "--pattern", "spike", "--duration", "300", "--rows", "10",
        "--plot", str(drawn), "--latency-slo", "0.5", env={},
    )  # fmt: skip
    assert done.code == 0, done.err
    heading, *rows = done.out.splitlines()
    assert heading.split() == ["TIME", "CALLS/S", "WANTED", "READY", "QUEUE", "P50", "P99", "REPLICA-HOURS"]
    assert len([row for row in rows if row and row[-1].isdigit() and "." in row.split()[-1]]) >= 10
    assert "calls: 0 refused" in done.out
    assert "within 500 ms" in done.out
    root = ElementTree.parse(drawn).getroot()
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Replicas", "Queue", "Latency, ms", "Cost, replica-hours", "0 min"} <= set(words)


def test_the_same_seed_gives_the_same_numbers(file: Path) -> None:
    words = ("policy", "simulate", str(file), "--pattern", "ramp", "--duration", "60", "--json")
    first, second = (json.loads(clip(*words, env={}).out) for _ in range(2))
    assert first == second
    assert first["summary"]["invocations"] > 100
    assert len(first["rows"]) == 20
    assert first["decisions"][0]["rule"]
    other = json.loads(clip(*words, "--seed", "2", env={}).out)
    assert other["summary"] != first["summary"]


def test_a_schedule_opens_in_the_simulated_time(file: Path) -> None:
    words = ("policy", "simulate", str(file), "--duration", "600", "--peak", "0.001", "--rows", "2", "--json")
    monday = json.loads(clip(*words, "--start", "2026-01-05T06:55:00", env={}).out)
    sunday = json.loads(clip(*words, "--start", "2026-01-04T06:55:00", env={}).out)
    assert [monday["rows"][1]["wanted"], sunday["rows"][1]["wanted"]] == [2, 0]


def test_a_trace_of_times_or_of_rates_is_replayed(file: Path, tmp_path: Path) -> None:
    times = tmp_path / "times.csv"
    times.write_text("at\n" + "\n".join(str(100 + n / 10) for n in range(50)) + "\n\n")
    done = json.loads(clip("policy", "simulate", str(file), "--trace", str(times), "--json", env={}).out)
    assert done["summary"]["invocations"] == 50
    rates = tmp_path / "rates.csv"
    rates.write_text("time,rate\n0,1\n60,20\n120,1\n")
    done = json.loads(clip("policy", "simulate", str(file), "--trace", str(rates), "--json", env={}).out)
    by_minute = [sum(r["rate_per_s"] for r in done["rows"] if 60 * m < r["at"] <= 60 * (m + 1)) for m in range(3)]
    assert by_minute[1] > 5 * max(by_minute[0], by_minute[2])


def test_a_simulation_is_bounded_and_takes_one_load(file: Path) -> None:
    done = clip("policy", "simulate", str(file), "--peak", "100000", "--pattern", "diurnal", env={})
    assert (done.code, "over the limit" in done.err) == (2, True)
    done = clip("policy", "simulate", str(file), "--trace", "x.csv", "--pattern", "ramp", env={})
    assert done.code == 2
    done = clip("policy", "simulate", str(file), "--duration", "5", "--plot", "/nowhere/x.svg", env={})
    assert (done.code, "cannot be written" in done.err) == (1, True)


def test_a_schedule_that_never_comes_true_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "autoscaling.toml"
    file.write_text('[[schedule]]\ncron = "0 0 30 2 *"\nduration_s = 60\nmin_replicas = 1\n')
    done = clip("policy", "simulate", str(file), env={})
    assert done.code == 1
    assert "cron = '0 0 30 2 *' is not allowed" in done.err
