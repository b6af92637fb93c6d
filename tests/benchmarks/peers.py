"""The servers that we compare with: installed into an environment of their own, one process and one worker each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import model
from tests.benchmarks.servers import BenchmarkError, Endpoint, Running, ended, free_port, process, wait_healthy

__all__ = ["BARE", "BARE_MSGSPEC", "OPTIONAL", "PEERS", "Peer", "PeerEnvironment", "PeerLauncher", "bench_home"]

APPS = Path(__file__).with_name("apps")
INSTALL_TIMEOUT_S = 300.0


def bench_home() -> Path:
    """Where peers' and functions' environments are kept from run to run: outside of the repository."""
    return Path(os.environ.get("CLIP_BENCH_HOME") or Path.home() / ".cache" / "clipper-bench").expanduser().absolute()


def _app(name: str) -> str:
    return str(APPS / f"{name}_app.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """`arguments` after `python`, by port; `path` of its route; `requirements`: none means our own environment;
    `distribution`: whose version is shown."""

    key: str
    name: str
    arguments: Callable[[str], list[str]]
    path: str = "/predict"
    body: bytes = model.BODY
    expected: bytes = model.ANSWER
    requirements: tuple[str, ...] = ()
    distribution: str


BARE = Peer(
    key="uvicorn",
    name="bare uvicorn",
    arguments=lambda port: [_app("asgi"), port, "json"],
    distribution="uvicorn",
)
BARE_MSGSPEC = Peer(
    key="uvicorn-msgspec",
    name="bare uvicorn, msgspec",
    arguments=lambda port: [_app("asgi"), port, "msgspec"],
    distribution="uvicorn",
)
PEERS = {
    peer.key: peer
    for peer in (
        Peer(
            key="mosec",
            name="mosec",
            arguments=lambda port: [
                _app("mosec"),
                "--port",
                port,
                "--address",
                "127.0.0.1",
                "--log-level",
                "warning",
            ],
            path="/inference",
            requirements=("mosec>=0.9,<0.10", "msgspec"),
            distribution="mosec",
        ),
        Peer(
            key="litserve",
            name="LitServe",
            arguments=lambda port: [_app("litserve"), port],
            requirements=("litserve>=0.2.10", "uvloop", "httptools"),
            distribution="litserve",
        ),
        Peer(
            key="bentoml",
            name="BentoML",
            arguments=lambda port: [
                "-m",
                "bentoml",
                "serve",
                "bentoml_app:Total",
                "--working-dir",
                str(APPS),
                "--host",
                "127.0.0.1",
                "--port",
                port,
            ],
            # Its batched routes take a list of inputs, even for one.
            body=json.dumps({"numbers": [model.NUMBERS]}).encode(),
            expected=json.dumps([sum(model.NUMBERS)]).encode(),
            requirements=("bentoml>=1.4",),
            distribution="bentoml",
        ),
        Peer(
            key="ray",
            name="Ray Serve",
            arguments=lambda port: [_app("ray"), port],
            requirements=("ray[serve]>=2.30", "msgspec"),
            distribution="ray",
        ),
    )
}
OPTIONAL = ("bentoml", "ray")


class PeerEnvironment:
    """A virtual environment for each peer, so that their dependencies need not agree."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def python(self, peer: Peer) -> Path:
        """The interpreter that runs the peer."""
        if not peer.requirements:
            return Path(sys.executable)
        return self._home / peer.key / "bin" / "python"

    def install(self, peer: Peer) -> None:
        """Make its environment unless it is there with these requirements. Raises BenchmarkError."""
        stamp = self._home / peer.key / "requirements.txt"
        wanted = "\n".join(peer.requirements)
        if not peer.requirements or (stamp.exists() and stamp.read_text() == wanted):
            return
        stamp.parent.mkdir(parents=True, exist_ok=True)
        python = self.python(peer)
        self._uv("venv", "--quiet", "--clear", "--python", sys.executable, str(stamp.parent))
        self._uv("pip", "install", "--quiet", "--python", str(python), *peer.requirements)
        stamp.write_text(wanted)

    def variables(self) -> dict[str, str]:
        """For the peers' processes: nothing phones home, and what they keep is kept beside them."""
        return {
            **os.environ,
            "PYTHONSAFEPATH": "1",
            "BENTOML_HOME": str(self._home / "bentoml-home"),
            "BENTOML_DO_NOT_TRACK": "true",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def _uv(self, *arguments: str) -> None:
        argv = [sys.executable, "-m", "uv", *arguments]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            output = child.communicate(timeout=INSTALL_TIMEOUT_S)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"uv {arguments[0]} took longer than {INSTALL_TIMEOUT_S:g} s") from None
        finally:
            ended(child)
        if child.returncode:
            raise BenchmarkError(f"uv {' '.join(arguments[:2])} failed: {output.strip()[-1000:]}")

    def version(self, peer: Peer) -> str:
        """Of its distribution as installed, or "?"."""
        code = f"from importlib.metadata import version as v; print(v({peer.distribution!r}))"
        done = subprocess.run([self.python(peer), "-c", code], capture_output=True, text=True, timeout=30)
        return done.stdout.strip() or "?"


class PeerLauncher:
    """Implements `Launcher`."""

    def __init__(self, peer: Peer, environment: PeerEnvironment, logs: Path) -> None:
        self.peer = peer
        self._environment = environment
        self._log = logs / f"{peer.key}.log"

    @property
    def contestants(self) -> Sequence[str]:
        return (self.peer.key,)

    @contextmanager
    def start(self) -> Iterator[Running]:
        port = free_port()
        peer = self.peer
        endpoint = Endpoint(url=f"http://127.0.0.1:{port}{peer.path}", body=peer.body, expected=peer.expected)
        argv = [str(self._environment.python(peer)), *peer.arguments(str(port))]
        with process(argv, self._log, self._environment.variables()) as child:
            wait_healthy(child, endpoint, self._log)
            yield Running(pid=child.pid, endpoints={peer.key: endpoint})
