"""`clip doctor` against a platform over HTTP: its checks, and what the platform stores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_platform import FakePlatform, client_environment, fake_platform
from tests.support.terminal import clip, on_terminal

NOWHERE = {"CLIP_URL": "http://127.0.0.1:9", "CLIP_API_KEY": "clip_any", "CLIP_HOME": "/nonexistent/clip-home"}


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with fake_platform() as running:
        running.storage["bundles"] = {"count": 3, "bytes": 3 << 20, "unused_count": 1, "unused_bytes": 1 << 20}
        running.storage["environments"] = {"count": 2, "bytes": 5 << 20, "unused_count": 2, "unused_bytes": 5 << 20}
        yield running


@pytest.fixture
def env(platform: FakePlatform) -> dict[str, str]:
    return client_environment(platform)


def test_doctor_finds_nothing_wrong_with_a_running_platform(env: dict[str, str], tmp_path: Path) -> None:
    done = clip("doctor", "--json", env=env | {"CLIP_HOME": str(tmp_path)})
    document = json.loads(done.out)
    results = {check["name"]: check["result"] for check in document["checks"]}
    assert results["platform"] == results["API key"] == results["Python"] == results["home"] == "ok"
    assert document["ok"] is (done.code == 0)


def test_doctor_fails_with_the_fix_while_no_platform_runs(tmp_path: Path) -> None:
    done = clip("doctor", "--clean", "--yes", env=NOWHERE | {"CLIP_HOME": str(tmp_path)})
    assert done.code == 1
    assert "✗ platform" in done.out
    assert "clip up" in done.out
    assert "Nothing stored was removed" in done.out
    assert "STORED" not in done.out


def test_doctor_tells_a_refused_key_from_an_unreachable_platform(env: dict[str, str]) -> None:
    done = clip("doctor", "--json", env=env | {"CLIP_API_KEY": "clip_wrong"})
    document = json.loads(done.out)
    results = {check["name"]: check["result"] for check in document["checks"]}
    assert (done.code, results["platform"], results["API key"]) == (1, "ok", "fail")
    assert document["storage"] is None


def test_doctor_warns_when_platform_and_client_differ(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.version = "9.9.9"
    checks = json.loads(clip("doctor", "--json", env=env).out)["checks"]
    versions = next(check for check in checks if check["name"] == "versions")
    assert (versions["result"], "9.9.9" in versions["detail"]) == ("warn", True)


def test_doctor_shows_what_is_stored_and_how_to_free_what_is_unused(env: dict[str, str]) -> None:
    done = clip("doctor", env=env)
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line.strip()}
    assert rows["environments"] == ["2", "5.0", "MiB", "2", "5.0", "MiB"]
    assert rows["versions"] == ["0", "0", "B"]
    assert "To free 6.0 MiB: clip doctor --clean" in done.out


def test_doctor_cleans_and_says_what_it_removed(platform: FakePlatform, env: dict[str, str]) -> None:
    done = clip("doctor", "--clean", "--yes", env=env)
    assert "Removed 1 bundle and 2 environments (6.0 MiB)" in done.out
    assert platform.storage["bundles"] == {"count": 2, "bytes": 2 << 20, "unused_count": 0, "unused_bytes": 0}
    assert "Nothing is unused." in clip("doctor", "--clean", env=env).out


def test_doctor_with_json_has_what_is_stored_and_what_was_removed(env: dict[str, str]) -> None:
    document = json.loads(clip("doctor", "--clean", "--yes", "--json", env=env).out)
    assert document["storage"]["environments"]["unused_count"] == 2
    assert document["removed"]["environments"] == {"count": 2, "bytes": 5 << 20}
    assert json.loads(clip("doctor", "--json", env=env).out)["removed"] is None


def test_doctor_removes_nothing_without_an_answer(platform: FakePlatform, env: dict[str, str]) -> None:
    done = clip("doctor", "--clean", env=env)
    assert done.code == 1
    assert "Say it with --yes" in done.err
    with on_terminal("doctor", "--clean", env=env) as terminal:
        terminal.wait_for(r"Remove 1 bundle and 2 environments \(6.0 MiB\)\?")
        terminal.type("n\n")
        assert terminal.finish().code == 1
    assert platform.storage["bundles"]["unused_count"] == 1


def test_doctor_shows_no_storage_to_a_key_without_the_scope_and_refuses_to_clean(
    platform: FakePlatform, env: dict[str, str]
) -> None:
    platform.storage.clear()
    done = clip("doctor", env=env)
    assert "STORED" not in done.out
    refused = clip("doctor", "--clean", "--yes", env=env)
    assert refused.code == 1
    assert "Use one with the scope admin" in refused.err
