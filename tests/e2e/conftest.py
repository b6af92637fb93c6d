"""One platform per test process, shared by the tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.support.platform import PlatformProcess, write_project

ROOT = Path(__file__).parents[2]
_numbers = count(1)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    with PlatformProcess(tmp_path_factory.mktemp("platform") / "home") as running:
        yield running


@pytest.fixture
def own_platform(tmp_path: Path) -> Iterator[PlatformProcess]:
    """One for this test alone, which may stop and kill it."""
    with PlatformProcess(tmp_path / "home") as running:
        yield running


Deploy = Callable[..., str]


def deployer(platform: PlatformProcess, directory: Path) -> Iterator[Deploy]:
    """`deploy(app, toml="", name=None)` deploys a project and returns its name; all are deleted afterwards."""
    made: set[str] = set()

    def deploy(app: str, toml: str = "", *, name: str | None = None) -> str:
        name = name or f"p{next(_numbers)}"
        made.add(name)
        write_project(directory / name, app, f'name = "{name}"\n{toml}')
        platform.deploy(directory / name)
        return name

    yield deploy
    for name in made:
        platform.clip("delete", name, "--yes", check=False)


@pytest.fixture
def deploy(platform: PlatformProcess, tmp_path: Path) -> Iterator[Deploy]:
    yield from deployer(platform, tmp_path)


@pytest.fixture(scope="module")
def deploy_once(platform: PlatformProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deploy]:
    """As `deploy`, for projects that all tests of a module share."""
    yield from deployer(platform, tmp_path_factory.mktemp("projects"))


@pytest.fixture
def http(platform: PlatformProcess) -> Iterator[httpx.Client]:
    with platform.client() as client:
        yield client
