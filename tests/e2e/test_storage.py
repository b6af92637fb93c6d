"""What a platform stores stays bounded: old versions, bundles and environments go, also across a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.platform import PlatformProcess, eventually, write_project

pytestmark = pytest.mark.timeout(240)

GRACE_S = 4.0

APP = """
import clipper

@clipper.function(min_replicas={min_replicas})
def answer(n: int) -> list[int]:
    return [n, {word}]
"""


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[PlatformProcess]:
    with PlatformProcess(tmp_path / "home", env={"CLIP_ENVIRONMENT_GRACE_S": str(GRACE_S)}) as running:
        yield running


def deploy(platform: PlatformProcess, directory: Path, word: int, toml: str = "", *, min_replicas: int = 0) -> None:
    name = directory.name
    write_project(directory, APP.format(word=word, min_replicas=min_replicas), f'name = "{name}"\n{toml}')
    platform.deploy(directory)


def versions(platform: PlatformProcess, project: str) -> list[int]:
    return [each["number"] for each in platform.api("GET", f"/projects/{project}/versions").json()["versions"]]


def bundles(platform: PlatformProcess) -> list[set[str]]:
    """Names of the archives and of the unpacked trees."""
    root = platform.home / "bundles"
    archives = {path.name.removesuffix(".tar.gz") for path in root.glob("*.tar.gz")}
    return [archives, {path.name for path in (root / "trees").iterdir() if path.is_dir()}]


def environments(platform: PlatformProcess) -> set[str]:
    return {path.parent.name for path in (platform.home / "environments").glob("*/.complete")}


def test_twenty_five_deploys_with_a_restart_between_leave_twenty_versions_and_their_bundles(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    for word in range(1, 26):
        if word == 22:
            platform.kill()
            platform.start()
        deploy(platform, tmp_path / "many", word)
    expected = list(range(25, 5, -1))
    eventually(lambda: versions(platform, "many") == expected, what="twenty versions")
    stored = platform.api("GET", "/projects/many/versions").json()["versions"]
    digests = {version["bundle"].removeprefix("sha256:") for version in stored}
    assert len(digests) == 20
    eventually(lambda: bundles(platform)[0] == digests, what="twenty archives")
    assert bundles(platform)[1] <= digests
    assert platform.call("many/answer", n=1) == [1, 25]
    assert platform.call("many/answer@6", n=1) == [1, 6]
    gone = platform.post("/fn/many/answer@5", {"n": 1})
    assert (gone.status_code, "keeps its newest 20" in gone.text) == (404, True)
    assert "was removed" in platform.clip("rollback", "many", "3", check=False).err
    events = platform.api("GET", "/projects/many/events?limit=100").json()["events"]
    removed = [number for event in events if event["kind"] == "retention" for number in event["data"]["versions"]]
    assert sorted(removed) == [1, 2, 3, 4, 5]


def test_the_environment_of_a_deleted_project_goes_after_the_grace_and_a_shared_one_stays(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    own = '[environment]\nrequirements = ["six"]\n'
    deploy(platform, tmp_path / "shared", 1, min_replicas=1)
    deploy(platform, tmp_path / "other", 1)
    before = environments(platform)
    deploy(platform, tmp_path / "alone", 1, own)
    (only,) = environments(platform) - before
    for name in ("other", "alone"):
        platform.clip("delete", name, "--yes")
    # Deployed again within the grace, it is reused; and kept while it is there, over a restart too.
    deploy(platform, tmp_path / "alone", 2, own)
    platform.kill()
    platform.start()
    assert environments(platform) == before | {only}
    platform.clip("delete", "alone", "--yes")
    eventually(lambda: environments(platform) == before, within_s=6 * GRACE_S, what="the environment to go")
    assert platform.call("shared/answer", n=1) == [1, 1]
    removed = "clip_environments_removed_total"
    eventually(lambda: platform.metrics().get(removed) == 1, what="the removal to be counted, after the files are gone")
    assert platform.metrics()["clip_environments"] == len(before)


def test_doctor_frees_what_is_unused_and_nothing_else(tmp_path: Path) -> None:
    with PlatformProcess(tmp_path / "home") as platform:
        deploy(platform, tmp_path / "stays", 1, min_replicas=1)
        kept = environments(platform)
        deploy(platform, tmp_path / "goes", 1, '[environment]\nrequirements = ["six"]\n')
        platform.clip("delete", "goes", "--yes")
        shown = platform.clip("doctor", "--json").json()["storage"]
        assert (shown["environments"]["count"], shown["environments"]["unused_count"]) == (2, 1)
        assert shown["environments"]["unused_bytes"] > 100_000
        assert (shown["versions"]["count"], shown["versions"]["unused_count"]) == (1, 0)
        removed = platform.clip("doctor", "--clean", "--yes", "--json").json()["removed"]
        assert removed["environments"]["count"] == 1
        assert environments(platform) == kept
        assert platform.call("stays/answer", n=1) == [1, 1]
        after = platform.clip("doctor", "--json").json()["storage"]
        assert after["environments"] | {"bytes": 0} == {"count": 1, "bytes": 0, "unused_count": 0, "unused_bytes": 0}
