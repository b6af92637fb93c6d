"""Answers that are computed beforehand: by a real platform, through the command, over a kill in the middle."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.platform import CLIP, PlatformProcess, eventually, write_project

pytestmark = pytest.mark.e2e

APP = """
import os, time
import clipper


@clipper.function(max_batch_size=32, batch_policy="static")
def square(x: list[float]) -> list[float]:
    with open(os.environ["RUNS"], "a") as file:
        file.write("".join(f"{each}\\n" for each in x))
    time.sleep(0.01)
    return [ValueError("thirteen") if each == -13 else each * each for each in x]
"""
ROWS = 5000
WAVE = 64  # rows of one replica's batch, and what a wave of two may be


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs.txt"


@pytest.fixture
def platform(tmp_path: Path, runs: Path) -> Iterator[PlatformProcess]:
    toml = f'name = "demo"\n[env]\nRUNS = "{runs}"\n'
    with PlatformProcess(tmp_path / "home", env={"CLIP_ISOLATION": "none"}) as platform:
        platform.deploy(write_project(tmp_path / "demo", APP, toml))
        runs.write_text("")
        yield platform


def call(platform: PlatformProcess, body: str) -> httpx.Response:
    return platform.request("POST", "/fn/demo/square", content=body, headers={"content-type": "application/json"})


def rows_file(directory: Path, rows: int = ROWS) -> Path:
    file = directory / "rows.jsonl"
    file.write_text("".join(f'{{"x": {n}}}\n' for n in range(rows)))
    return file


def test_nothing_is_lost_and_nothing_done_twice_beyond_one_wave_over_a_kill(
    platform: PlatformProcess, tmp_path: Path, runs: Path
) -> None:
    file = rows_file(tmp_path)
    command = [CLIP, "materialize", "demo/square", "--inputs", str(file), "--json"]
    client = subprocess.Popen(command, env=platform.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: len(runs.read_text().splitlines()) > ROWS / 10, within_s=30, every_s=0.01)
        platform.kill()
        at_kill = len(runs.read_text().splitlines())
        platform.start()
        out, _ = client.communicate(timeout=90)
    finally:
        client.kill()
        client.wait()
    job = json.loads(out)
    assert (job["state"], job["done"], job["failed"], job["total"]) == ("done", ROWS, 0, ROWS)
    assert client.returncode == 0
    assert at_kill < ROWS
    times = Counter(runs.read_text().split())
    assert set(times) == {str(float(n)) for n in range(ROWS)}
    assert sum(times.values()) - ROWS <= WAVE
    with platform.client() as http:
        for n in range(0, ROWS, 250):
            answer = http.post("/fn/demo/square", json={"x": n})
            assert answer.headers["cache-status"] == "clipper; hit; detail=materialized"
            assert answer.json() == n * n
    assert len(runs.read_text().split()) == sum(times.values())


def test_an_interrupted_client_is_continued_by_the_same_command(platform: PlatformProcess, tmp_path: Path) -> None:
    file = rows_file(tmp_path, 300)
    source = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0]
    begun = platform.api("POST", "/materializations", json={"function": "demo/square", "source": f"sha256:{source}"})
    job = begun.json()
    assert begun.status_code == 201
    lines = file.read_bytes().splitlines(keepends=True)
    sent = platform.api("PUT", f"/materializations/{job['id']}/rows?at=0", content=b"".join(lines[:100]))
    assert sent.json()["received"] == 100
    done = platform.clip("materialize", "demo/square", "--inputs", file, "--json").json()
    assert (done["id"], done["done"], done["state"]) == (job["id"], 300, "done")


def test_bad_rows_are_listed_and_the_exit_code_is_1(platform: PlatformProcess, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"x": 1}\n{"x": "one"}\nnope\n{"x": -13}\n{"y": 1}\n2.5\n')
    result = platform.clip("materialize", "demo/square", "--inputs", file, check=False)
    assert result.code == 1
    assert "row 2: schema_mismatch" in result.out
    assert "row 3: invalid_request: not JSON" in result.out
    assert "row 4: function_error: ValueError: thirteen" in result.out
    assert "row 5: schema_mismatch" in result.out
    assert "2 answers of demo/square@1 are there, 4 rows failed" in result.out
    assert call(platform, '{"x":1.0}').headers["cache-status"] == "clipper; hit; detail=materialized"
    assert "cache-status" not in call(platform, '{"x": 99}').headers
    shown = platform.clip("materialize", "demo/square").out
    assert "done" in shown


def test_a_new_version_serves_the_old_answers_marked_stale_until_it_is_computed(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("x\n1\n2\n")
    platform.clip("materialize", "demo/square", "--inputs", file, "--stale", "serve")
    (tmp_path / "demo" / "app.py").write_text(APP.replace("each * each", "-each * each"))
    platform.deploy(tmp_path / "demo")
    stale = call(platform, '{"x": 2}')
    assert (stale.headers["cache-status"], stale.json()) == ("clipper; hit; detail=materialized; stale", 4.0)
    assert call(platform, '{"x": 3}').json() == -9.0
    platform.clip("materialize", "demo/square", "--inputs", file, "--stale", "serve")
    fresh = call(platform, '{"x": 2}')
    assert (fresh.headers["cache-status"], fresh.json()) == ("clipper; hit; detail=materialized", -4.0)


def test_with_miss_a_new_version_computes(platform: PlatformProcess, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("x\n2\n")
    platform.clip("materialize", "demo/square", "--inputs", file)
    (tmp_path / "demo" / "app.py").write_text(APP.replace("each * each", "-each * each"))
    platform.deploy(tmp_path / "demo")
    answer = call(platform, '{"x": 2}')
    assert (answer.json(), "cache-status" in answer.headers) == (-4.0, False)
    platform.clip("rollback", "demo")
    assert call(platform, '{"x": 2}').headers["cache-status"] == "clipper; hit; detail=materialized"


MISTAKES = [
    (("demo/nope", "--inputs", "rows.csv"), 1, "has no function 'nope'"),
    (("demo/square", "--inputs", "gone.csv"), 2, "does not exist"),
    (("demo/square", "--inputs", "empty.jsonl"), 1, "has no rows"),
    (("demo/square", "--inputs", "other.csv"), 1, "columns that are no parameters: y"),
    (("demo/square", "--inputs", "rows.txt"), 1, "of no kind that is read"),
    (("demo/square@1", "--inputs", "rows.csv"), 2, "leave the @version out"),
    (("demo/square", "--inputs", "rows.csv", "--ttl", "soon"), 2, "no duration above 0"),
    (("demo/square", "--inputs", "rows.csv", "--cancel"), 2, "it takes no --inputs"),
    (("demo/square", "--cancel"), 0, "Nothing runs"),
]


def test_a_mistake_is_named(platform: PlatformProcess, tmp_path: Path) -> None:
    for name, text in {"rows.csv": "x\n1\n", "rows.txt": "1\n", "empty.jsonl": "", "other.csv": "y\n1\n"}.items():
        (tmp_path / name).write_text(text)
    assert "Nothing was computed beforehand for demo/square" in platform.clip("materialize", "demo/square").out
    for arguments, code, words in MISTAKES:
        result = platform.clip("materialize", *arguments, cwd=tmp_path, check=False)
        assert result.code == code, result
        assert words in result.out + result.err, result
