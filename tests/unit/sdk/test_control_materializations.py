"""The control calls about materializations against `infra/docs/control-api.md`, row by row."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clipper.control import ControlClient
from clipper.control_materializations import MaterializationCalls
from tests.unit.sdk.scripted_platform import ScriptedPlatform, json_response

JOBS = "/api/v1/materializations"
JOB = {"id": "j1", "received": 2}
FAILED = {"row": 1, "code": "c", "message": "m"}


@pytest.fixture
def control(platform: ScriptedPlatform) -> Iterator[ControlClient]:
    with ControlClient() as client:
        yield client


BEGUN = {"function": "p/f", "source": "s", "ttl_s": 60.0, "stale": "serve"}
Row = tuple[Callable[[ControlClient], Any], str, dict[str, str], bytes, Any, Any]
ROWS: list[Row] = [
    (lambda c: c.materializations(), f"GET {JOBS}", {}, b"", {"materializations": [JOB]}, [JOB]),
    (
        lambda c: c.begin_materialization("p/f", "s", ttl_s=60.0, stale="serve"),
        f"POST {JOBS}", {}, json.dumps(BEGUN).encode(), JOB, JOB,
    ),
    (lambda c: c.materialization("j1"), f"GET {JOBS}/j1", {}, b"", JOB, JOB),
    (
        lambda c: c.add_rows("j1", 5, [b'{"x":1}', b'{"x":2}']),
        f"PUT {JOBS}/j1/rows", {"at": "5"}, b'{"x":1}\n{"x":2}\n', JOB, JOB,
    ),
    (lambda c: c.complete_materialization("j1"), f"POST {JOBS}/j1/complete", {}, b"", JOB, JOB),
    (lambda c: c.cancel_materialization("j1"), f"DELETE {JOBS}/j1", {}, b"", JOB, JOB),
    (
        lambda c: c.failed_rows("j1", 7),
        f"GET {JOBS}/j1/failures", {"from": "7", "limit": "1000"}, b"", {"failures": [FAILED]}, [FAILED],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "route", "query", "body", "answer", "expected"), ROWS, ids=[row[1] for row in ROWS])
def test_a_call_is_the_request_of_the_contract(
    platform: ScriptedPlatform,
    control: ControlClient,
    call: Callable[[ControlClient], Any],
    route: str,
    query: dict[str, str],
    body: bytes,
    answer: Any,
    expected: Any,
) -> None:
    platform.api[route] = lambda seen: json_response(answer)
    assert call(control) == expected
    (seen,) = platform.seen
    assert f"{seen.method} {seen.path}" == route
    assert seen.query == query
    assert seen.body == body


def test_every_call_is_tested() -> None:
    in_rows = {next(name for name in row[0].__code__.co_names) for row in ROWS}
    assert {name for name, _ in inspect.getmembers(MaterializationCalls, inspect.isfunction) if name in
            vars(MaterializationCalls)} == in_rows  # fmt: skip
