"""The progress of a materialization, and what its options take."""

from __future__ import annotations

import click
import pytest

from clipper.cli.materialize import _pieces, _ttl
from clipper.cli.materialize_progress import Rate, _Lines

JOB = {"total": 100, "received": 100, "done": 10, "failed": 0, "waiting": ""}


def test_the_rate_is_that_of_the_last_seconds_and_says_what_is_left() -> None:
    rate = Rate()
    for second in range(100):
        rate.observe(second * 10 if second < 50 else 500 + (second - 50) * 2, float(second))
    assert rate.per_s == pytest.approx(2.0)
    assert rate.words(598 + 20) == "2 rows/s, 10.0 s left"
    assert rate.words(None) == "2 rows/s"


def test_without_two_looks_there_is_no_rate() -> None:
    rate = Rate()
    rate.observe(5, 1.0)
    assert (rate.per_s, rate.words(10)) == (None, "")


def test_without_a_terminal_a_line_comes_every_five_seconds() -> None:
    now, lines = 0.0, []
    meter = _Lines(lines.append, lambda: now)
    for second in range(12):
        now = float(second)
        meter.show({**JOB, "done": second * 5, "failed": second // 10})
    assert (
        lines == ["25 of 100 · 5 rows/s, 15.0 s left", "50 of 100 · 1 failed · 5 rows/s, 9.7 s left"] or len(lines) == 2
    )
    now = 20.0
    meter.show({**JOB, "total": None, "waiting": "a replica is starting"})
    assert lines[-1] == "10, 100 sent · waits: a replica is starting"


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("12h", 43_200), ("7d", 604_800)])
def test_a_time_to_live_has_a_unit(text: str, seconds: float) -> None:
    assert _ttl(click.Context(click.Command("x")), click.Option(["--ttl"]), text) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "7 days", "x", "1w", ""])
def test_another_time_to_live_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 90s, 15m, 12h or 7d"):
        _ttl(click.Context(click.Command("x")), click.Option(["--ttl"]), text)


def test_rows_are_sent_in_pieces_of_bounded_size() -> None:
    assert [len(piece) for piece in _pieces([b"x"] * 12_000)] == [5000, 5000, 2000]
    assert [len(piece) for piece in _pieces([b"x" * 600_000] * 3)] == [2, 1]
