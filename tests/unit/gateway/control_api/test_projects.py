"""The list of all projects, of which there may be thousands."""

from __future__ import annotations

import asyncio

import pytest

from clipper_platform.gateway.control_api.projects import SLICE
from clipper_platform.store.base import Project
from tests.unit.gateway.gate import Gate


async def test_others_have_a_turn_while_many_projects_are_listed_and_one_that_goes_meanwhile_is_left_out(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = gate.plane.registry
    names = [f"p{number:04}" for number in range(SLICE + 2)]
    for name in names:
        await registry.ensure_project(name)
    projects, turns = registry.projects, list[str]()

    def listed() -> list[Project]:
        def another() -> None:
            turns.append("another")
            del registry._projects[names[-1]]

        asyncio.get_running_loop().call_soon(another)
        return projects()

    monkeypatch.setattr(registry, "projects", listed)
    async with gate.client() as client:
        answer = await client.get("/api/v1/projects")
    assert turns == ["another"]
    assert [project["name"] for project in answer.raise_for_status().json()["projects"]] == names[:-1]


async def test_a_functions_line_in_the_list_is_what_its_status_says(gate: Gate) -> None:
    await gate.plane.deployed()
    async with gate.client() as client:
        (project,) = (await client.get("/api/v1/projects")).raise_for_status().json()["projects"]
        (shown,) = project["functions"]
        (told,) = (await client.get("/api/v1/projects/digits")).raise_for_status().json()["functions"]
    assert shown == {key: told[key] for key in ("name", "url", "state", "replicas_ready", "replicas_wanted")}
