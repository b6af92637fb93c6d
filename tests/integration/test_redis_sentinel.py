"""A platform whose Redis is the master that a Sentinel names: fail-overs under load, and errors that name the cause."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from clipper_platform.errors import StoreUnavailable
from clipper_platform.store.redis import RedisStore
from tests.support.platform import PlatformProcess, eventually, write_project
from tests.support.redis_server import RedisServer, free_port, running_redis

pytestmark = pytest.mark.timeout(180)

APP = """
import clipper

@clipper.function()
def which() -> int:
    return {number}
"""


@contextmanager
def sentinel(master: RedisServer, directory: Path) -> Iterator[int]:
    """A Sentinel that takes the master for dead after half a second; its port."""
    port = free_port()
    configuration = directory / "sentinel.conf"
    configuration.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
    )
    with (directory / "sentinel.log").open("wb") as log:
        process = subprocess.Popen(["redis-server", str(configuration), "--sentinel"], stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("synchronised", [True, False], ids=["with its data", "without data"])
def test_a_platform_goes_on_with_the_replica_that_takes_over(tmp_path: Path, synchronised: bool) -> None:
    with ExitStack() as stack:
        master, replica = (stack.enter_context(running_redis(tcp=True)) for _ in range(2))
        master.command("CONFIG", "SET", "repl-diskless-sync-delay", "0" if synchronised else "600")
        replica.command("REPLICAOF", "127.0.0.1", str(master.port))
        linked = b"master_link_status:up" if synchronised else b"master_link_status:down"
        eventually(lambda: linked in replica.command("INFO", "replication"))
        port = stack.enter_context(sentinel(master, tmp_path))
        # A Sentinel learns of replicas from the master, every ten seconds.
        eventually(lambda: replica_known(port, replica.port), within_s=30)
        url = f"redis+sentinel://127.0.0.1:{port}/main/0?prefix=team"
        platform = stack.enter_context(PlatformProcess(tmp_path / "home", ["--store", url]))
        for number in (1, 2):
            platform.deploy(project(tmp_path, number))
        if synchronised:
            eventually(lambda: b"1" in replica.command("HEXISTS", "team:versions:demo", "2"))
        answers, stop = set[object](), threading.Event()

        def call() -> None:
            while not stop.is_set():
                response = platform.post("/fn/demo/which", {})
                answers.add(response.json() if response.is_success else response.text)

        thread = threading.Thread(target=call)
        thread.start()
        try:
            master.kill()
            eventually(lambda: b"role:master" in replica.command("INFO", "replication"), within_s=30)
            deployed = platform.deploy(project(tmp_path, 3)).json()
        finally:
            stop.set()
            thread.join()
        assert deployed["version"] == 3
        assert platform.post("/fn/demo/which", {}).json() == 3
        assert answers <= {2, 3}
        stored = replica.command("HKEYS", "team:versions:demo")
        assert all(number in stored for number in (b"1", b"2", b"3"))


def replica_known(sentinel_port: int, replica_port: int) -> bool:
    return str(replica_port).encode() in ask(sentinel_port, "sentinel", "replicas", "main")


def ask(port: int, *words: str) -> bytes:
    return subprocess.run(["redis-cli", "-p", str(port), *words], capture_output=True, check=False).stdout


def project(tmp_path: Path, number: int) -> Path:
    return write_project(tmp_path / "demo", APP.format(number=number), 'name = "demo"\n')


async def test_a_service_that_sentinel_does_not_know_and_a_sentinel_that_is_away_are_named(tmp_path: Path) -> None:
    with running_redis(tcp=True) as master, sentinel(master, tmp_path) as port:
        eventually(lambda: b"PONG" in ask(port, "ping"))
        with pytest.raises(StoreUnavailable, match="No master found for 'other'"):
            await RedisStore(f"redis+sentinel://127.0.0.1:{port}/other/0").open()
        with pytest.raises(StoreUnavailable, match="No master found for 'main'"):
            await RedisStore("redis+sentinel://127.0.0.1:1/main/0").open()
        store = RedisStore(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/main/0")
        await store.open()
        assert await store.list_projects() == []
        await store.close()
