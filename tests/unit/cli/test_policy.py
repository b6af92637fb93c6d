"""`clip policy check` and `clip policy simulate`, which need no platform; what `clip explain` prints; the drawing."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from clipper.cli.charts import Line, Panel, draw
from clipper.cli.console import Output
from clipper.cli.explain import report
from clipper.cli.policyfile import read_policy, read_trace
from clipper.contract.spec import SpecError
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


def check(path: Path, text: str) -> str:
    path.write_text(text)
    done = clip("policy", "check", str(path), env={})
    return done.err if done.code else done.out + done.err


def test_a_good_policy_is_shown_with_its_defaults(file: Path) -> None:
    done = clip("policy", "check", str(file), env={})
    assert done.code == 0
    assert "autoscaling.toml is a policy" in done.out
    lines = {line.split()[0]: line for line in done.out.splitlines()[1:]}
    assert lines["max_replicas"].split()[1:] == ["12"]
    assert lines["min_replicas"].split()[1:] == ["0", "default"]
    assert "0 8 * * MON-FRI Europe/Berlin" in lines["schedule"]
    told = json.loads(clip("policy", "check", str(file), "--json", env={}).out)
    assert told["policy"]["max_replicas"] == 12
    assert told["digest"] == read_policy(file)[2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_replica = 3", "unknown key 'max_replica'; did you mean 'max_replicas'?"),
        ("min_replicas = 9", "min_replicas = 9 is above max_replicas = 8"),
        ("panic_window_s = 90", "the panic window must be the shorter one"),
        ("target_queue_depth = 2\ntarget_ongoing_requests = 1", "two ways to say"),
        ("buffer_replicas = 9", "can never be kept"),
        ('keep_alive = "learnt"\nmin_replicas = 1', "set min_replicas = 0"),
        ('keep_alive = "always"', "one of 'fixed', 'learnt'"),
        ("max_scale_up_rate = 1", "a number above 1"),
        ('[[schedule]]\ncron = "0 25 * * *"\nduration_s = 5\nmin_replicas = 1', "the hour '25' must be"),
        ('[[schedule]]\ncron = "0 8 * * FUN"\nduration_s = 5\nmin_replicas = 1', "SUN to SAT"),
        ('[[schedule]]\ncron = "5-1 8 * * *"\nduration_s = 5\nmin_replicas = 1', "the minute '5-1'"),
        ('[[schedule]]\ncron = "*-5 8 * * *"\nduration_s = 5\nmin_replicas = 1', "the minute '*-5'"),
        ('[[schedule]]\ncron = "* * * *"\nduration_s = 5\nmin_replicas = 1', "five fields"),
        (
            '[[schedule]]\ncron = "* * * * *"\nduration_s = 5\nmin_replicas = 1\ntimezone = "Berlin"',
            "did you mean 'Europe/Berlin'?",
        ),
        (
            '[[schedule]]\ncron = "* * * * *"\nduration_s = 5\nmin_replicas = 1\ntimezone = "zzz"',
            'write a name as in "Europe/Berlin"',
        ),
        ("max_replicas = ", "not valid TOML"),
    ],
)
def test_a_mistake_is_explained(tmp_path: Path, text: str, said: str) -> None:
    told = check(tmp_path / "bad.toml", text)
    assert said in " ".join(told.split())
    assert "bad.toml" in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("downscale_to_zero_delay_s = 5", "downscale_delay_s = 30: the second delay is waited for first"),
        ("min_replicas = 3\nmax_replicas = 3", "nothing else in the policy has an effect"),
        ("upscale_delay_s = 90", "only bursts"),
        ('[[schedule]]\ncron = "*/5,30-40/2 0,12 1 JAN-MAR 0"\nduration_s = 5\nmin_replicas = 1', "is a policy"),
    ],
)
def test_what_is_allowed_but_seldom_meant_is_noted(tmp_path: Path, text: str, said: str) -> None:
    assert said in " ".join(check(tmp_path / "odd.toml", text).split())


def test_a_file_that_is_not_there_or_not_text_is_said(tmp_path: Path) -> None:
    done = clip("policy", "check", str(tmp_path / "none.toml"), env={})
    assert (done.code, "cannot be read" in done.err) == (1, True)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8"):
        read_policy(tmp_path / "bytes.toml")


# Simulation


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


@pytest.mark.parametrize("text", ["", "at\n", "1\nx\n", "2\n1\n", "0,5\n1\n", "0,-1\n", "nan\n0\n"])
def test_a_trace_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(SpecError, match=r"trace\.csv"):
        read_trace(path)


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


# Words and drawings


def test_an_explanation_is_words_first_and_history_after(capsys: pytest.CaptureFixture[str]) -> None:
    change = {"at": 1_750_000_000.0, "before": 1, "wanted": 3, "rule": "panic", "why": "a burst"}
    latest = {
        "at": 1_750_000_000.0, "before": 3, "wanted": 3, "rule": "queue_depth", "why": "12 on average",
        "steps": ["demand 3", "delay 3"], "change": ["more replicas: above 13"], "schedules": [],
        "inputs": {"queued": 4, "running": 8, "ready": 3, "load_stable": 12.0, "load_panic": 11.5},
    }  # fmt: skip
    told = {"function": "p/f", "source": "applied", "no_data": "", "latest": latest, "changes": [change]}
    report(Output(), told)
    out = capsys.readouterr().out
    assert out.startswith("p/f  3 replicas: queue_depth\n  12 on average\n  demand 3 → delay 3\n")
    assert "queued 4 · running 8 · ready 3 · average 12 (11.5 lately) · policy applied" in out
    assert "↳ more replicas: above 13" in out
    assert "1 → 3" in out
    report(Output(), told | {"latest": None, "no_data": "it does not start", "changes": []})
    assert capsys.readouterr().out == "p/f  it does not start\n  The number of replicas has not changed yet.\n"


def test_a_line_with_gaps_is_drawn_in_pieces() -> None:
    svg = draw("<t>", [0, 10, 20, 30], [Panel("p & q", [Line("l", [1, None, 2, 3], steps=True)], 2.5)])
    root = ElementTree.fromstring(svg)
    paths = [path.get("d", "") for path in root.iter("{http://www.w3.org/2000/svg}path")]
    assert len(paths) == 2
    assert paths[0].startswith("M")
    assert " H" in paths[1]
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words[:2] == ["<t>", "p & q"]
    assert draw("empty", [1.0], [Panel("none", [Line("l", [None])])])
