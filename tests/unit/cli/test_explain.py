from __future__ import annotations

import pytest

from clipper.cli.console import Output
from clipper.cli.explain import report


def test_an_explanation_is_words_first_and_history_after(capsys: pytest.CaptureFixture[str]) -> None:
    change = {"at": 1_750_000_000.0, "before": 1, "wanted": 3, "rule": "panic", "why": "a burst"}
    latest = {
        "at": 1_750_000_000.0, "before": 3, "wanted": 3, "rule": "queue_depth", "why": "12 on average",
        "steps": ["demand 3", "delay 3"], "change": ["more replicas: above 13"], "schedules": [],
        "inputs": {"queued": 4, "running": 8, "ready": 3, "load_stable": 12.0, "load_panic": 11.5},
    }  # fmt: skip
    decisions = {"function": "p/f", "source": "applied", "no_data": "", "latest": latest, "changes": [change]}
    report(Output(), decisions)
    out = capsys.readouterr().out
    assert out.startswith("p/f  3 replicas: queue_depth\n  12 on average\n  demand 3 → delay 3\n")
    assert "queued 4 · running 8 · ready 3 · average 12 (11.5 lately) · policy applied" in out
    assert "↳ more replicas: above 13" in out
    assert "1 → 3" in out
    report(Output(), decisions | {"latest": None, "no_data": "it does not start", "changes": []})
    assert capsys.readouterr().out == "p/f  it does not start\n  The number of replicas has not changed yet.\n"


BATCHES = {
    "policy": "aimd", "limit": 96, "max_batch_size": 128, "budget_s": 0.0225, "base_s": 0.007, "per_item_s": 0.0001,
    "adaptive": True, "returning": True, "sent": {"full": 1, "waited": 3}, "batches": 4, "invocations": 250,
    "waits": 3, "waited_s": 0.0063, "joined": 93,
}  # fmt: skip


@pytest.mark.parametrize(
    ("batches", "lines"),
    [
        (
            BATCHES,
            [
                "batches of 62.5 on average, at most 96 (aimd: a batch may run for 22.5 ms of the objective)",
                "one of n takes about 7 + n · 0.1 ms",
                "sent: full 25% · waited long enough 75%",
                "waited: 3 times, 2.1 ms on average, for 31 more invocations each time",
            ],
        ),
        (BATCHES | {"waits": 0}, ["waited: never (waiting costs more than it gains)"]),
        (BATCHES | {"waits": 0, "returning": False}, ["waited: never (nobody is expected back"]),
        (BATCHES | {"limit": 128, "base_s": None, "adaptive": False}, ["at most 128 (max_batch_size)"]),
        (BATCHES | {"budget_s": None}, ["at most 96 (aimd)"]),
        (BATCHES | {"batches": 0}, ["batches: none yet, of 128 at most"]),
    ],
)
def test_an_explanation_tells_how_batches_are_made(
    batches: dict[str, object], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    decisions = {
        "function": "p/f", "source": "deployed", "no_data": "no load", "latest": None, "changes": [], "batches": batches
    }  # fmt: skip
    report(Output(), decisions)
    out = capsys.readouterr().out
    for line in lines:
        assert line in out
