"""What HTTP clients send and expect: curl, a socket, httpx. Each case was a fault that one of them showed."""

from __future__ import annotations

import gzip
import shutil
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Deploy
from tests.support.platform import PlatformProcess

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]

APP = """
import time
import clipper

@clipper.function()
def greet(name: str = "nobody", times: int = 1) -> str:
    return " ".join(["hello " + name] * times)

@clipper.function()
def slowly(name: str) -> str:
    time.sleep(0.5)
    return name

@clipper.function()
def size(data: bytes, label: str = "") -> dict:
    return {"size": len(data), "label": label}

@clipper.function()
def count(to: int):
    yield from range(to)
"""


@pytest.fixture(scope="module")
def base(platform: PlatformProcess, deploy_once: Deploy) -> str:
    return f"http://127.0.0.1:{platform.port}/fn/{deploy_once(APP)}"


def curl(*arguments: str) -> str:
    done = subprocess.run(["curl", "-sS", "-m", "30", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_curl_that_offers_http_2_calls_with_its_arguments(base: str) -> None:
    json = ("-H", "content-type: application/json")
    assert curl("--http2", *json, "-d", '{"name": "ann"}', f"{base}/greet") == '"hello ann"'
    offer = ("-H", "Connection: Upgrade", "-H", "Upgrade: h2c")
    chunked = ("-H", "Transfer-Encoding: chunked")
    assert curl(*json, *offer, *chunked, "-d", '{"name": "ann"}', f"{base}/greet") == '"hello ann"'


def test_the_forms_of_curl_and_arguments_in_the_address_are_arguments(base: str, tmp_path: Path) -> None:
    file = tmp_path / "file.bin"
    file.write_bytes(b"\r\n--\0\xff" * 10_000)
    assert curl("-d", "name=ann", "-d", "times=2", f"{base}/greet") == '"hello ann hello ann"'
    assert curl("--data-urlencode", "name=a&b", f"{base}/greet") == '"hello a&b"'
    assert curl("-F", f"data=@{file}", "-F", "label=7", f"{base}/size") == '{"size":60000,"label":"7"}'
    assert curl("-H", "Content-Type: application/pdf", "--data-binary", f"@{file}", f"{base}/size").startswith(
        '{"size":60000'
    )
    assert curl("-X", "POST", f"{base}/greet?name=ann&times=1") == '"hello ann"'
    assert '"not in both' not in curl("-X", "POST", f"{base}/greet?nmae=ann")
    assert "did you mean `name`" in curl("-X", "POST", f"{base}/greet?nmae=ann")


def test_packed_bodies_are_unpacked(base: str) -> None:
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    answer = httpx.post(f"{base}/greet", content=gzip.compress(b'{"name": "ann"}'), headers=headers)
    assert answer.json() == "hello ann"


def test_a_stream_has_the_form_that_is_preferred(base: str) -> None:
    def ask(accept: str) -> tuple[str, str]:
        answer = httpx.post(f"{base}/count", json={"to": 3}, headers={"accept": accept})
        return answer.headers["content-type"], answer.text

    assert ask("application/json, text/event-stream") == ("application/json", "[0,1,2]")
    assert ask("Application/X-NDJSON") == ("application/x-ndjson", "0\n1\n2\n")
    kind, events = ask("application/json;q=0.5, Text/Event-Stream")
    assert kind.startswith("text/event-stream")
    assert events.startswith("data: 0\n\n")


def test_a_client_that_closes_its_sending_side_gets_its_answer(platform: PlatformProcess, base: str) -> None:
    path = base.partition("/fn/")[2]
    for accept in ("*/*", "text/event-stream"):
        with socket.create_connection(("127.0.0.1", platform.port), timeout=30) as client:
            body = b'{"name": "ann"}'
            head = f"POST /fn/{path}/slowly HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n"
            client.sendall(head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            client.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: client.recv(65536), b""))
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b'"ann"' in received


def test_what_is_no_http_is_refused_with_the_json_error(platform: PlatformProcess) -> None:
    with socket.create_connection(("127.0.0.1", platform.port), timeout=30) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        received = b"".join(iter(lambda: client.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b'{"error":{"code":"invalid_request"' in received
