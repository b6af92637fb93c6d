"""What holds for every test: no settings of the developer's own, no surprises from a slow machine in property tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.virtual_time import VirtualTimeLoop

HERE = Path(__file__).parent

# The time of a single example says nothing on a busy machine; pytest-timeout bounds the whole test.
settings.register_profile("clipper", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("clipper")


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if name.startswith("CLIP_")]:
        del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE / "e2e"):
            item.add_marker(pytest.mark.e2e)


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualTimeLoop}
    return {"real": asyncio.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test logged travels to xdist's controller as UTF-8, which a lone surrogate has no form in."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report
