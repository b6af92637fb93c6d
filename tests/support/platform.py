"""A whole platform as its users run it: `clip up` in a process of its own, with a home that nobody else has."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
import psutil

__all__ = ["CLIP", "Clip", "PlatformProcess", "eventually", "processes_of", "write_project"]

T = TypeVar("T")

CLIP = str(Path(sys.executable).with_name("clip"))
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0


def eventually(
    ask: Callable[[], T | Literal[False] | None], *, within_s: float = 10.0, every_s: float = 0.05, what: str = ""
) -> T:
    """The first truthy answer of `ask`, which must come within `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what or ask}; last answer: {answer!r}")
        time.sleep(every_s)


def processes_of(home: Path) -> list[psutil.Process]:
    """Every living process that has `home` in its command line, its working directory or its environment."""
    word, found = str(home), []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            places = [*process.cmdline(), process.cwd(), *process.environ().values()]
            if any(word in place for place in places):
                found.append(process)
    return found


def ready(url: str) -> bool:
    """Whether the platform at `url` takes requests."""
    return httpx.get(url + "/readyz", timeout=5, verify=False).is_success


def write_project(directory: Path, app: str, toml: str = "", **files: str) -> Path:
    """A project directory: `app.py`, `clip.toml` and, by keyword, more files (a `__` in a name is a dot)."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "app.py").write_text(app, encoding="utf-8")
    (directory / "clip.toml").write_text(toml, encoding="utf-8")
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return directory


@dataclass(frozen=True)
class Clip:
    """What a `clip` command did."""

    args: Sequence[str]
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"clip {' '.join(self.args)} → {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@dataclass
class PlatformProcess:
    """`with PlatformProcess(home) as platform:` — ready when the block begins, gone with all its children after it."""

    home: Path
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    command: Sequence[str] = (CLIP,)  # may change the user before it runs `clip`

    url: str = field(default="", init=False)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        # Beside the home, not in it: the home is the platform's.
        self.log_path = self.home.with_name(self.home.name + ".log")

    def __enter__(self) -> PlatformProcess:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            print(f"--- log of the platform at {self.home}\n{self.log()[-20_000:]}", file=sys.stderr)
        self.stop()

    # Life

    def start(self) -> None:
        """Start it and wait until it answers `/readyz`; on the port that it had before, if it had one."""
        command = [*self.command, "up", "--home", str(self.home), "--port", str(self.port), *self.args]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment(),
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"clip up ended with {self.process.returncode}:\n{self.log()}")
            with contextlib.suppress(OSError, ValueError, httpx.HTTPError):
                found = json.loads((self.home / "platform.json").read_text())
                if found["pid"] == self.process.pid and ready(found["url"]):
                    self.url = found["url"]
                    self.port = httpx.URL(self.url).port or 0
                    return
            time.sleep(0.05)
        raise AssertionError(f"clip up was not ready within {START_TIMEOUT_S:g} s:\n{self.log()}")

    def stop(self) -> None:
        """End it as Ctrl-C in its terminal would, and make sure that nothing of it is left."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(
                    f"clip up did not end within {STOP_TIMEOUT_S:g} s of SIGTERM:\n{self.log()}"
                ) from None
        self.assert_nothing_left()

    def kill(self) -> None:
        """kill -9 of the platform alone: its replicas have to notice by themselves."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def assert_nothing_left(self, within_s: float = 10.0) -> None:
        """Wait for the last process of this home to be gone; end what is left and fail if there is any."""
        deadline = time.monotonic() + within_s
        while left := processes_of(self.home):
            if time.monotonic() > deadline:
                described = []
                for process in left:
                    with contextlib.suppress(psutil.Error):
                        described.append(f"{process.pid}: {' '.join(process.cmdline())}")
                        process.kill()
                raise AssertionError("processes outlived their platform:\n" + "\n".join(described))
            time.sleep(0.05)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    # Talking to it

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a user of this platform: none of the developer's own settings shine through."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CLIP_", "COV_", "COVERAGE", "PYTEST_"))}
        return {**kept, "CLIP_HOME": str(self.home), "NO_COLOR": "1", **self.env, **more}

    def clip(
        self, *args: str | Path, cwd: Path | None = None, check: bool = True, timeout_s: float = 90.0, text: str = ""
    ) -> Clip:
        """Run a `clip` command to its end. With `check`, an exit code other than 0 fails the test."""
        words = [str(arg) for arg in args]
        done = subprocess.run(
            [CLIP, *words],
            env=self.environment(),
            cwd=cwd,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        result = Clip(words, done.returncode, done.stdout, done.stderr)
        assert not check or result.code == 0, f"{result}\n--- platform\n{self.log()[-5000:]}"
        return result

    def deploy(self, directory: Path, *, check: bool = True, timeout_s: float = 90.0) -> Clip:
        return self.clip("deploy", str(directory), "--json", check=check, timeout_s=timeout_s)

    @property
    def api_key(self) -> str:
        return (self.home / "api_key").read_text().strip()

    def client(self, **options: Any) -> httpx.Client:
        """For many requests over kept connections; without a key."""
        return httpx.Client(base_url=self.url, timeout=30, verify=False, **options)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request without a key. verify=False: loading certificates for plain HTTP would take 0.1 s each time."""
        return httpx.request(method, self.url + path, verify=False, **{"timeout": 60, **options})

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> httpx.Response:
        return self.request("POST", path, json=json, **options)

    def api(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A control call with the admin key; `path` is below /api/v1."""
        headers = {"Authorization": f"Bearer {self.api_key}", **options.pop("headers", {})}
        return self.request(method, f"/api/v1{path}", headers=headers, **options)

    def status(self, path: str) -> dict[str, Any]:
        """Status of `project/function`."""
        project, _, function = path.partition("/")
        answer = self.api("GET", f"/projects/{project}")
        assert answer.is_success, answer.text
        return next(f for f in answer.json()["functions"] if f["name"] == function)

    def call(self, path: str, /, **arguments: Any) -> Any:
        """The value that `project/function` returns for JSON arguments."""
        answer = self.post(f"/fn/{path}", arguments)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        return answer.json()

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics: `name{label="value",…}` → value."""
        lines = self.get("/metrics").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """os.environ with these values for a while."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
