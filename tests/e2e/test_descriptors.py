"""A platform that runs out of file descriptors: connections are refused in words, and replicas still start."""

from __future__ import annotations

import contextlib
import http.client
import socket
from pathlib import Path

import pytest

from tests.support.platform import CLIP, PlatformProcess, eventually, write_project

pytestmark = pytest.mark.timeout(120)

APP = """
import clipper

@clipper.function(downscale_to_zero_delay_s=0.2, downscale_delay_s=0)
def f() -> int:
    return 1
"""


def test_beyond_the_limit_connections_are_refused_with_503_and_counted_and_a_cold_start_works(tmp_path: Path) -> None:
    with PlatformProcess(tmp_path / "home", command=("prlimit", "--nofile=100:300", CLIP)) as platform:
        assert platform.process is not None
        limits = Path(f"/proc/{platform.process.pid}/limits").read_text()
        assert next(line for line in limits.splitlines() if "open files" in line).split()[3] == "300"
        platform.deploy(write_project(tmp_path / "demo", APP, 'name = "demo"\n'))
        eventually(lambda: platform.status("demo/f")["replicas_ready"] == 0)
        early = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=30)
        early.connect()
        refused = 0
        with contextlib.ExitStack() as stack:
            stack.callback(early.close)
            for _ in range(400):
                late = stack.enter_context(socket.create_connection(("127.0.0.1", platform.port), timeout=10))
                late.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = late.recv(4096)
                assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 503 ")), answer
                refused += answer.startswith(b"HTTP/1.1 503 ")
            assert refused > 100
            early.request("POST", "/fn/demo/f", b"{}", {"Content-Type": "application/json"})
            response = early.getresponse()
            assert (response.status, response.read()) == (200, b"1")
            early.request("GET", "/metrics")
            metrics = early.getresponse().read().decode()
        assert f"clip_connections_refused_total {float(refused)}" in metrics
        assert "connections are refused" in platform.log()
        assert eventually(lambda: platform.get("/healthz").is_success)
