"""How the process backend resolves what a launch names; no process is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipper_platform.backends.base import StartError
from clipper_platform.backends.process.backend import ProcessBackend
from clipper_platform.errors import NotFound
from tests.support.replicas import bundle_at, environment_at, launch_spec, process_backend


async def test_an_environment_that_is_not_built_here_is_a_start_error(tmp_path: Path) -> None:
    backend = ProcessBackend(tmp_path / "home", lambda *_: None, bundles=bundle_at, environments=lambda _: None)
    spec = launch_spec(tmp_path)
    with pytest.raises(StartError, match=f"the environment {spec.environment} is not built on this machine") as caught:
        await backend.launch(spec)
    assert caught.value.phase == "launch"


async def test_a_bundle_that_is_lost_is_a_start_error(tmp_path: Path) -> None:
    async def lost(digest: str) -> Path:
        raise NotFound("the archive is lost")

    backend = ProcessBackend(tmp_path / "home", lambda *_: None, bundles=lost, environments=environment_at)
    spec = launch_spec(tmp_path)
    with pytest.raises(StartError, match=f"the bundle {spec.bundle} cannot be read: the archive is lost") as caught:
        await backend.launch(spec)
    assert caught.value.phase == "launch"


async def test_its_replicas_share_the_cores_that_the_platform_may_use(tmp_path: Path) -> None:
    assert process_backend(tmp_path / "home").cores() == len(os.sched_getaffinity(0))
