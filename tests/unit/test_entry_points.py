"""What the CLI finds of the platform: the entry points of pyproject.toml, and what they give."""

from __future__ import annotations

import errno
import tomllib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from clipper_platform.entry_points import up as up_module
from clipper_platform.entry_points.simulate import simulate
from clipper_platform.entry_points.up import up
from clipper_platform.errors import Conflict
from clipper_platform.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def test_the_installed_entry_points_are_those_of_pyproject_toml() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["clipper.platform"]
    installed = {entry.name: entry.value for entry in entry_points(group="clipper.platform")}
    assert installed == declared, (
        "the installed metadata is older than pyproject.toml; install again, in the root of the repository: "
        "bash -c '. infra/scripts/lib.sh; install_into .venv dev'"
    )
    assert {name: entry.load().__name__ for name in declared for entry in entry_points(name=name)} == {
        "up": "up",
        "simulate": "simulate",
        "sweep": "sweep",
    }


def runs(monkeypatch: pytest.MonkeyPatch, outcome: int | Exception) -> list[Settings]:
    """Replace the platform itself; the settings that it is run with."""
    seen: list[Settings] = []

    def run(settings: Settings, *, on_listening: Any) -> int:
        seen.append(settings)
        on_listening(url="http://127.0.0.1:1234")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(up_module, "run", run)
    return seen


def test_up_runs_the_platform_with_the_flags_and_says_where_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = runs(monkeypatch, 3)
    listening: list[dict[str, str]] = []
    flags = {"home": tmp_path, "port": 0, "store": None, "cors_origins": (), "log_level": "debug"}
    assert up(flags, listening.append) == {"exit_code": 3}
    assert (seen[0].home, seen[0].port, seen[0].log_level) == (tmp_path, 0, "debug")
    assert listening == [
        {
            "url": "http://127.0.0.1:1234",
            "store": f"sqlite:///{tmp_path}/clipper.db",
            "backend": "process",
            "home": str(tmp_path),
        }
    ]


def test_up_gives_a_failure_as_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs(monkeypatch, Conflict("the port is taken", port=8700))
    assert up({"home": tmp_path}, lambda _: None) == {
        "error": {"code": "conflict", "message": "the port is taken", "port": 8700}
    }
    refused = up({"home": tmp_path, "store": "mysql://:s3cret@x"}, lambda _: None)["error"]
    assert refused["code"] == "invalid_spec"
    assert refused["message"].startswith("store = 'mysql…' is not allowed")
    assert "s3cret" not in refused["message"]


@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: ExceptionGroup("starting", [e])])
def test_up_gives_a_full_disk_as_data_and_a_defect_as_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Exception], Exception]
) -> None:
    runs(monkeypatch, wrap(OSError(errno.ENOSPC, "No space left on device", "/home/x/home_id")))
    error = up({"home": tmp_path}, lambda _: None)["error"]
    assert error["message"] == "the platform cannot go on: No space left on device: /home/x/home_id"
    assert error["hint"].startswith("Free some space")
    runs(monkeypatch, wrap(OSError(errno.EACCES, "Permission denied", "/home/x")))
    assert "hint" not in up({"home": tmp_path}, lambda _: None)["error"]
    runs(monkeypatch, wrap(KeyError("x")))
    with pytest.raises((KeyError, ExceptionGroup)):
        up({"home": tmp_path}, lambda _: None)


POLICY = {"target_queue_depth": 2, "max_replicas": 12}
FUNCTION = {"base_s": 0.1, "per_item_s": 0.0, "max_batch_size": 1, "cold_start_s": 1.0}


@pytest.mark.parametrize(
    ("load", "calls"),
    [
        ({"times": [0.0, 1.0, 2.0]}, 3),
        ({"times": [0.0, 30.0], "rates": [10.0, 0.0], "seed": 1}, 300),
        ({"pattern": "ramp", "peak": 10.0, "seed": 1}, 300),
    ],
    ids=["times", "rates", "pattern"],
)
def test_a_simulation_takes_each_kind_of_load_and_gives_plain_data(load: dict[str, Any], calls: int) -> None:
    run = simulate(POLICY, FUNCTION, load, begins_at=0.0, duration_s=60.0, latency_slo_s=0.5, rows=6)
    assert run["summary"]["invocations"] == pytest.approx(calls, rel=0.2)
    assert [row["at"] for row in run["rows"]] == [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    assert all(decision["wanted"] != decision["before"] for decision in run["decisions"])


def test_a_simulation_refuses_a_schedule_that_never_opens() -> None:
    policy = {"schedule": [{"cron": "0 0 30 2 *", "duration_s": 60, "min_replicas": 1}]}
    run = simulate(policy, FUNCTION, {"times": [0.0]}, begins_at=0.0, duration_s=1.0, latency_slo_s=None, rows=2)
    assert run["error"]["code"] == "invalid_spec"
