from __future__ import annotations

from typing import Any

from clipper.cli.progress import PHASES, Progress


def after(*events: dict[str, Any]) -> Progress:
    progress = Progress()
    for moment, event in enumerate(events):
        progress.handle(event, float(moment))
    return progress


def test_a_phase_runs_from_its_first_event_to_its_last() -> None:
    progress = after({"kind": "phase", "phase": "environment", "message": "building"})
    phase = progress.phases["environment"]
    assert phase.running
    progress.handle({"kind": "phase_done", "phase": "environment", "data": {"seconds": 2.5, "reused": False}}, 9.0)
    assert (phase.running, phase.seconds, phase.detail) == (False, 2.5, "built")


def test_an_environment_that_was_there_is_called_reused() -> None:
    done = {"kind": "phase_done", "phase": "environment", "data": {"seconds": 0.0, "reused": True}}
    assert after(done).phases["environment"].detail == "reused"


def test_replicas_are_counted_per_function() -> None:
    progress = after(
        {"kind": "phase", "phase": "replicas"},
        {"kind": "progress", "data": {"function": "a", "ready": 0, "wanted": 2}},
        {"kind": "progress", "data": {"function": "b", "ready": 1, "wanted": 1}},
        {"kind": "progress", "data": {"function": "a", "ready": 1, "wanted": 2}},
    )
    assert progress.phases["replicas"].detail == "a 1/2, b 1/1"


def test_the_newest_log_lines_are_kept_and_made_harmless() -> None:
    lines = [{"kind": "log", "phase": "environment", "message": f"\x1b[32mline {n}\x1b[0m"} for n in range(50)]
    log = list(after(*lines).phases["environment"].log)
    assert log[-1] == "line 49"
    assert len(log) < 10


def test_a_replicas_line_names_its_function() -> None:
    progress = after({"kind": "log", "phase": "replicas", "message": "loading", "data": {"function": "classify"}})
    assert list(progress.phases["replicas"].log) == ["classify: loading"]


def test_a_canary_shows_its_share_and_how_it_ended() -> None:
    step = {"kind": "progress", "phase": "canary", "data": {"share": 10, "step": 1, "steps": 3, "seconds": 60}}
    assert after(step).phases["canary"].detail == "10 % of the calls, step 1 of 3"
    done = {"kind": "phase_done", "phase": "canary", "data": {"seconds": 180.0}}
    assert after(step, done).phases["canary"].detail == "does as well as the version before"


def test_only_what_was_going_on_counts_as_failed() -> None:
    progress = after(
        {"kind": "phase", "phase": "environment"},
        {"kind": "phase_done", "phase": "environment", "data": {"seconds": 1.0}},
        {"kind": "phase", "phase": "replicas"},
    )
    progress.fail()
    assert [name for name in PHASES if progress.phases[name].failed] == ["replicas"]


def test_when_all_went_well_nothing_is_left_running() -> None:
    progress = after({"kind": "phase", "phase": "environment"}, {"kind": "phase", "phase": "replicas"})
    progress.succeed(7.0)
    assert [progress.phases[name].seconds for name in ("environment", "replicas", "route")] == [7.0, 6.0, None]


def test_unknown_events_change_nothing() -> None:
    progress = after({"kind": "weather", "phase": "tomorrow"}, {"kind": "log", "message": "no phase"}, {})
    assert all(phase.began is None for phase in progress.phases.values())
