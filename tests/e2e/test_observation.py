"""What one sees from outside: logs with request ids, metrics, health, the API's description, the commands that look."""

from __future__ import annotations

import json
import re
import subprocess
import threading

import pytest

from tests.e2e.conftest import Deploy
from tests.support.platform import CLIP, PlatformProcess, eventually

APP = """
import logging, sys
import clipper

@clipper.function()
def talk(word: str) -> str:
    print("printed", word)
    print("complained", word, file=sys.stderr)
    logging.getLogger("app").warning("logged %s", word)
    return word

@clipper.function(cache_ttl_s=60)
def fail(word: str) -> str:
    raise ValueError(word)
"""


@pytest.fixture(scope="module")
def watched(platform: PlatformProcess, deploy_once: Deploy) -> str:
    return deploy_once(APP)


def lines(platform: PlatformProcess, path: str, *options: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in platform.clip("logs", path, "--json", *options).out.splitlines()]


def test_what_a_function_says_is_logged_with_its_request(platform: PlatformProcess, watched: str) -> None:
    answer = platform.post(f"/fn/{watched}/talk", json={"word": "apple"})
    request = answer.headers["x-request-id"]
    said = eventually(
        lambda: (
            len(found := [r for r in lines(platform, f"{watched}/talk") if r["request_id"] == request]) == 3 and found
        )
    )
    assert {(r["stream"], r["message"]) for r in said} == {
        ("stdout", "printed apple"),
        ("stderr", "complained apple"),
        ("log", "logged apple"),
    }
    assert next(r for r in said if r["stream"] == "log")["level"].lower() == "warning"


def test_tail_and_since_select(platform: PlatformProcess, watched: str) -> None:
    for word in ("one", "two", "three"):
        platform.call(f"{watched}/talk", word=word)
    eventually(lambda: any("three" in r["message"] for r in lines(platform, f"{watched}/talk")))
    assert len(lines(platform, f"{watched}/talk", "--tail", "2")) == 2
    assert lines(platform, f"{watched}/talk", "--since", "10m")
    assert not lines(platform, f"{watched}/talk", "--since", "2099-01-01")


def test_following_a_log_shows_what_comes_later(platform: PlatformProcess, watched: str) -> None:
    following = subprocess.Popen(
        [CLIP, "logs", f"{watched}/talk", "-f", "--tail", "0"],
        env=platform.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seen = threading.Event()

    def read() -> None:
        assert following.stdout is not None
        for line in following.stdout:
            if "printed later" in line:
                seen.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        eventually(lambda: platform.call(f"{watched}/talk", word="later") and seen.wait(0.3), within_s=20)
    finally:
        following.terminate()
        following.wait(10)
        reader.join(10)
        assert following.stdout is not None
        following.stdout.close()


EXPECTED = [
    "clip_invocations_total",
    "clip_invocation_duration_seconds",
    "clip_queue_duration_seconds",
    "clip_queue_depth",
    "clip_batch_size",
    "clip_batch_duration_seconds",
    "clip_replicas",
    "clip_cold_start_seconds",
    "clip_cache_requests_total",
    "clip_cache_bytes",
    "clip_replica_restarts_total",
]


def test_metrics_count_what_happened(platform: PlatformProcess, watched: str) -> None:
    def count(code: str, function: str) -> float:
        name = f'clip_invocations_total{{code="{code}",function="{watched}/{function}",version="1"}}'
        samples = {
            ",".join(sorted(re.split(r",|(?<={)", k.replace("}", "")))): v for k, v in platform.metrics().items()
        }
        return samples.get(",".join(sorted(re.split(r",|(?<={)", name.replace("}", "")))), 0.0)

    good, bad = count("200", "talk"), count("500", "fail")
    for _ in range(3):
        platform.call(f"{watched}/talk", word="counted")
    platform.post(f"/fn/{watched}/fail", json={"word": "x"})
    assert count("200", "talk") == good + 3
    assert count("500", "fail") == bad + 1


def test_metrics_have_the_promised_names_and_labels(platform: PlatformProcess, watched: str) -> None:
    platform.call(f"{watched}/talk", word="x")
    text = platform.get("/metrics").text
    declared = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert {name for name in EXPECTED if name not in declared} == set()
    ready = next(line for line in text.splitlines() if line.startswith("clip_replicas{") and f"{watched}/talk" in line)
    assert set(re.findall(r"(\w+)=", ready)) == {"function", "version", "state"}
    assert re.search(r'clip_cold_start_seconds_count\{[^}]*phase="setup"', text)


def test_health_and_readiness_need_no_key(platform: PlatformProcess) -> None:
    assert platform.get("/healthz").status_code == 200
    assert platform.get("/readyz").status_code == 200


def test_the_openapi_description_names_the_routes(platform: PlatformProcess) -> None:
    described = platform.get("/openapi.json").json()
    assert described["openapi"].startswith("3.")
    assert any(path.startswith("/fn/{project}/{function}") for path in described["paths"])
    assert "/api/v1/projects" in described["paths"]


def test_a_functions_schema_says_what_it_takes(platform: PlatformProcess, watched: str) -> None:
    schema = platform.get(f"/fn/{watched}/talk/schema").json()
    assert schema["parameters"]["properties"]["word"]["type"] == "string"
    assert schema["parameters"]["required"] == ["word"]


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["status", "{p}"],
        ["status", "{p}/talk"],
        ["versions", "{p}"],
        ["key", "list"],
        ["doctor"],
        ["config", "show"],
        ["secret", "list", "{p}"],
    ],
)
def test_commands_that_look_print_words_and_json(
    platform: PlatformProcess, watched: str, tmp_path: object, command: list[str]
) -> None:
    words = [word.format(p=watched) for word in command]
    plain = platform.clip(*words)
    assert plain.out.strip()
    assert "\x1b" not in plain.out
    platform.clip(*words, "--json").json()


def test_secrets_reach_the_replicas_that_start_after_them(platform: PlatformProcess, deploy: Deploy) -> None:
    app = (
        "import os\nimport clipper\n"
        "@clipper.function()\ndef tell() -> str:\n    return os.environ.get('TOKEN', 'none')\n"
    )
    name = deploy(app)
    assert platform.call(f"{name}/tell") == "none"
    platform.clip("secret", "set", name, "TOKEN", text="hush\n")
    deploy(app + "# again\n", name=name)
    assert platform.call(f"{name}/tell").strip() == "hush"
    assert "hush" not in platform.clip("secret", "list", name).out
    assert "hush" not in platform.log()
