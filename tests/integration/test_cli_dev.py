"""`clip dev`: a save deploys, errors are shown where they are, and at the end everything is as it was."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.platform import PlatformProcess, eventually, processes_of, write_project
from tests.support.terminal import COMMAND, clip_process, environment, on_terminal

pytestmark = pytest.mark.timeout(180)

APP = """
import clipper
print("loading {word}")

@clipper.function()
def greet() -> str:
    print("called")
    {body}
    return "{word}"
"""


def app(word: str, body: str = "pass") -> str:
    return APP.format(word=word, body=body)


class Dev:
    """A running `clip dev --json`, event by event."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen: list[dict[str, Any]] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def wait_for(self, event: str, timeout_s: float = 60, **facts: Any) -> dict[str, Any]:
        """The next event of this kind with these facts; those before it are dropped."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                found = json.loads(self._lines.get(timeout=max(0.01, until - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"{event} {facts} did not come; there were {self.seen}") from None
            self.seen.append(found)
            if found["event"] == event and all(found.get(k) == v for k, v in facts.items()):
                return found

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(40)


@contextmanager
def running_dev(directory: Path, env: dict[str, str]) -> Iterator[Dev]:
    process = subprocess.Popen(
        [*COMMAND, "dev", str(directory), "--json"],
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    dev = Dev(process)
    try:
        yield dev
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        dev._reader.join(10)
        assert process.stdout is not None
        process.stdout.close()


def test_on_a_platform_of_its_own_a_save_deploys_and_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    directory = write_project(tmp_path / "demo", app("one"), 'name = "demo"\n')
    with running_dev(directory, {"CLIP_HOME": str(tmp_path / "home")}) as dev:
        own = dev.wait_for("platform")
        assert own["private"] is True
        first = dev.wait_for("deployed")
        url = first["functions"]["greet"]
        assert httpx.post(url, json={}, timeout=30).json() == "one"
        assert dev.wait_for("log", message="called")["function"] == "greet"

        (directory / "app.py").write_text(app("two"))
        assert dev.wait_for("changed")["files"] == ["app.py"]
        assert dev.wait_for("deployed")["version"] == 2
        assert httpx.post(url, json={}, timeout=30).json() == "two"

        (directory / "app.py").write_text(app("three", "raise ValueError('not today')"))
        assert dev.wait_for("deployed")["version"] == 3
        assert httpx.post(url, json={}, timeout=30).status_code == 500
        place = dev.wait_for("error")
        assert (place["file"], place["line"], place["in"]) == ("app.py", 8, "greet")
        assert place["message"] == "ValueError: not today"

        (directory / "app.py").write_text(app("four", "return ("))
        failed = dev.wait_for("failed")
        assert "app.py" in failed["error"]["message"]

        (directory / "app.py").write_text("import clipper, no_such_module\n" + app("five"))
        failed = dev.wait_for("failed")
        assert (failed["file"], failed["line"]) == ("app.py", 1)
        assert httpx.post(url, json={}, timeout=30).headers["x-clip-version"] == "3", "the last good one answers"

        assert dev.stop() == 0
    assert not Path(own["home"]).exists()
    assert processes_of(Path(own["home"])) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_killed_it_takes_its_platform_along(tmp_path: Path) -> None:
    directory = write_project(tmp_path / "demo", app("one"), 'name = "demo"\n')
    with running_dev(directory, {"CLIP_HOME": str(tmp_path / "home")}) as dev:
        own = Path(dev.wait_for("platform")["home"])
        dev.wait_for("deployed")
        assert processes_of(own)
        dev.process.kill()
        dev.process.wait(10)
        eventually(lambda: not processes_of(own), within_s=30)
    shutil.rmtree(own, ignore_errors=True)  # nobody was left to remove it


def test_on_the_platform_that_runs_the_project_is_put_back(tmp_path: Path) -> None:
    with PlatformProcess(tmp_path / "home") as platform:
        directory = write_project(tmp_path / "demo", app("one"), 'name = "demo"\n[deploy]\nstrategy = "canary"\n')
        platform.deploy(directory)
        for name, there in (("demo", True), ("fresh", False)):
            (directory / "clip.toml").write_text(f'name = "{name}"\n[deploy]\nstrategy = "canary"\n')
            (directory / "app.py").write_text(app("two"))
            with running_dev(directory, {"CLIP_HOME": str(platform.home)}) as dev:
                assert dev.wait_for("platform")["private"] is False
                dev.wait_for("deployed", timeout_s=40)
                assert platform.call(f"{name}/greet") == "two"
                assert dev.stop() == 0
            answer = platform.post(f"/fn/{name}/greet", {})
            assert (answer.json() == "one") if there else (answer.status_code == 404)


def test_on_a_terminal_ctrl_c_ends_it_and_a_place_stands_under_its_error(tmp_path: Path) -> None:
    directory = write_project(tmp_path / "demo", "import no_such_module\n" + app("one"), 'name = "demo"\n')
    with on_terminal("dev", str(directory), env={"CLIP_HOME": str(tmp_path / "home"), "COLUMNS": "200"}) as terminal:
        shown = terminal.wait_for("waiting for the next save", timeout_s=60)
        assert "app.py:1" in shown
        assert "ModuleNotFoundError" in shown
        terminal.interrupt()
        done = terminal.finish(40)
    assert done.code == 0
    assert "Traceback (most recent call last):\n  File" not in done.out.partition("Stopping")[2]


def test_another_machine_is_not_deployed_to_on_every_save(tmp_path: Path) -> None:
    directory = write_project(tmp_path / "demo", app("one"), 'name = "demo"\n')
    done = clip_process("dev", str(directory), env={"CLIP_HOME": str(tmp_path), "CLIP_URL": "http://192.0.2.1:8700"})
    assert done.code == 1
    assert "another machine" in done.err


def test_without_a_project_it_says_so(tmp_path: Path) -> None:
    done = clip_process("dev", str(tmp_path), env={"CLIP_HOME": str(tmp_path)})
    assert done.code == 1
    assert "clip init" in done.err


def test_warnings_of_a_deploy_are_shown_once(tmp_path: Path) -> None:
    directory = write_project(tmp_path / "demo", app("one"), 'name = "demo"\n', queue__py="", id_rsa="key")
    with running_dev(directory, {"CLIP_HOME": str(tmp_path / "home")}) as dev:
        assert "id_rsa" in dev.wait_for("warning")["message"]
        assert "queue.py has the name of a module of Python" in dev.wait_for("warning")["message"]
        dev.wait_for("deployed")
        dev.seen.clear()
        (directory / "app.py").write_text(app("two"))
        dev.wait_for("deployed")
        assert not [event for event in dev.seen if event["event"] == "warning"]
        assert dev.stop() == 0
