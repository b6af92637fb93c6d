"""Versions: a new one takes over when it is healthy, a broken one never does, the old ones stay at hand."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.e2e.conftest import Deploy
from tests.support.platform import PlatformProcess, write_project

GREET = """
import clipper

@clipper.function()
def greet(name: str = "you") -> str:
    return f"{word}, {{name}}"
"""


def greeting(word: str) -> str:
    return GREET.format(word=word)


def version_of(platform: PlatformProcess, path: str) -> tuple[str, str]:
    answer = platform.post(f"/fn/{path}", json={}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-clip-version"], answer.json()


def test_a_second_deploy_takes_over_and_rollback_returns(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy(greeting("hello"))
    assert version_of(platform, f"{name}/greet") == ("1", "hello, you")
    deploy(greeting("good day"), name=name)
    assert version_of(platform, f"{name}/greet") == ("2", "good day, you")

    platform.clip("rollback", name)
    assert version_of(platform, f"{name}/greet") == ("1", "hello, you")
    platform.clip("rollback", name, "2")
    assert version_of(platform, f"{name}/greet") == ("2", "good day, you")

    listed = platform.clip("versions", name, "--json").json()["versions"]
    assert [(v["number"], v["current"]) for v in listed] == [(2, True), (1, False)]


def test_a_version_can_be_asked_for_by_its_number(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy(greeting("hello"))
    deploy(greeting("good day"), name=name)
    assert version_of(platform, f"{name}/greet@1") == ("1", "hello, you")
    assert version_of(platform, f"{name}/greet@2") == ("2", "good day, you")
    missing = platform.post(f"/fn/{name}/greet@9", json={})
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "not_found"


def test_the_same_files_again_deploy_nothing(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy(greeting("hello"))
    deploy(greeting("hello"), name=name)
    assert version_of(platform, f"{name}/greet")[0] == "1"
    assert len(platform.clip("versions", name, "--json").json()["versions"]) == 1


def test_no_call_fails_while_a_version_takes_over(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy(greeting("hello"))
    stop, seen, wrong = threading.Event(), set(), []

    def call() -> None:
        with platform.client() as http:
            while not stop.is_set():
                answer = http.post(f"/fn/{name}/greet", json={})
                seen.add(answer.headers.get("x-clip-version"))
                if answer.status_code != 200:
                    wrong.append(answer.text)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        deploy(greeting("good day"), name=name)
        platform.clip("rollback", name)
        deploy(greeting("good evening"), name=name)
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert not wrong
    assert seen == {"1", "2", "3"}


BROKEN = {
    "raises on import": (greeting("hello") + "\nraise RuntimeError('no weights here')\n", "", "no weights here"),
    "imports what is not there": (
        "import no_such_module_at_all\n" + greeting("hello"),
        "",
        "no_such_module_at_all",
    ),
    "is no Python": ("import clipper\n@clipper.function()\ndef greet(:\n", "", "not valid Python"),
    "raises in setup": (
        "import clipper\n@clipper.function(name='greet')\nclass Greet:\n"
        "    def __init__(self):\n        raise OSError('the model file is empty')\n"
        "    def __call__(self) -> str:\n        return ''\n",
        "",
        "the model file is empty",
    ),
    "hangs in setup": (
        "import time\nimport clipper\n@clipper.function(name='greet', startup_timeout_s=1.5)\nclass Greet:\n"
        "    def __init__(self):\n        time.sleep(600)\n"
        "    def __call__(self) -> str:\n        return ''\n",
        "",
        "startup_timeout_s",
    ),
    "dies in setup": (
        "import os\nimport clipper\n@clipper.function(name='greet')\nclass Greet:\n"
        "    def __init__(self):\n        print('so long', flush=True)\n        os._exit(7)\n"
        "    def __call__(self) -> str:\n        return ''\n",
        "",
        "exit status 7",
    ),
    "has no such entrypoint": (
        greeting("hello"),
        '[functions.greet]\nentrypoint = "app:Greeter"\n',
        "Greeter",
    ),
    "needs what does not resolve": (
        greeting("hello"),
        '[environment]\nrequirements = ["msgspec==0.0.0.1"]\n',
        "msgspec",
    ),
    "has a typo in its options": (greeting("hello"), "[functions.greet]\nmax_batchsize = 2\n", "max_batch_size"),
    "contradicts itself": (
        greeting("hello"),
        "[functions.greet.autoscaling]\nmin_replicas = 5\nmax_replicas = 2\n",
        "min_replicas",
    ),
}


@pytest.fixture(scope="module")
def served(platform: PlatformProcess, deploy_once: Deploy) -> str:
    return deploy_once(greeting("hello"))


@pytest.mark.parametrize("why", BROKEN)
def test_a_version_that_cannot_serve_leaves_the_old_one_alone(
    platform: PlatformProcess, served: str, tmp_path: Path, why: str
) -> None:
    app, toml, said = BROKEN[why]
    write_project(tmp_path / "next", app, f'name = "{served}"\n{toml}')
    failed = platform.clip("deploy", tmp_path / "next", check=False)
    assert failed.code == 1, failed
    assert said in failed.out + failed.err, failed
    assert "Traceback (most recent call last)" not in failed.err or "app.py" in failed.err, failed
    assert version_of(platform, f"{served}/greet") == ("1", "hello, you")
    assert platform.status(f"{served}/greet")["state"] == "ready"


def test_a_project_that_never_worked_does_not_answer(platform: PlatformProcess, tmp_path: Path) -> None:
    write_project(tmp_path / "p", BROKEN["raises in setup"][0], 'name = "stillborn"\n')
    assert platform.clip("deploy", tmp_path / "p", check=False).code == 1
    answer = platform.post("/fn/stillborn/greet", json={})
    assert answer.status_code == 404, answer.text
    platform.clip("delete", "stillborn", "--yes", check=False)


def test_a_deleted_project_is_gone_and_its_numbers_are_not_given_again(
    platform: PlatformProcess, deploy: Deploy
) -> None:
    name = deploy(greeting("hello"))
    platform.clip("delete", name, "--yes")
    assert platform.post(f"/fn/{name}/greet", json={}).status_code == 404
    deploy(greeting("hello"), name=name)
    assert version_of(platform, f"{name}/greet")[0] == "2"
