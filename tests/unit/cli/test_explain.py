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
