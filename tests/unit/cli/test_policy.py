"""`clip policy check`, which needs no platform."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipper.cli.policyfile import read_policy
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
    document = json.loads(clip("policy", "check", str(file), "--json", env={}).out)
    assert document["policy"]["max_replicas"] == 12
    assert document["digest"] == read_policy(file)[2]


@pytest.mark.parametrize(
    ("text", "expected"),
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
def test_a_mistake_is_explained(tmp_path: Path, text: str, expected: str) -> None:
    printed = check(tmp_path / "bad.toml", text)
    assert expected in " ".join(printed.split())
    assert "bad.toml" in printed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("downscale_to_zero_delay_s = 5", "downscale_delay_s = 30: the second delay is waited for first"),
        ("min_replicas = 3\nmax_replicas = 3", "nothing else in the policy has an effect"),
        ("upscale_delay_s = 90", "only bursts"),
        ('[[schedule]]\ncron = "*/5,30-40/2 0,12 1 JAN-MAR 0"\nduration_s = 5\nmin_replicas = 1', "is a policy"),
    ],
)
def test_what_is_allowed_but_seldom_meant_is_noted(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in " ".join(check(tmp_path / "odd.toml", text).split())
