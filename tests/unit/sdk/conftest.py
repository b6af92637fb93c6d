from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.sdk.scripted_platform import ScriptedPlatform, Served


@pytest.fixture(autouse=True)
def no_platform_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whoever runs the tests may have a platform, and its address, of their own."""
    monkeypatch.delenv("CLIP_URL", raising=False)
    monkeypatch.delenv("CLIP_API_KEY", raising=False)
    monkeypatch.setenv("CLIP_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    with Served() as running:
        yield running


@pytest.fixture
def platform(served: Served, monkeypatch: pytest.MonkeyPatch) -> ScriptedPlatform:
    """A fresh scripted platform at CLIP_URL."""
    served.platform = ScriptedPlatform(url=served.url)
    monkeypatch.setenv("CLIP_URL", served.url)
    monkeypatch.setenv("CLIP_API_KEY", "clip_test_key")
    return served.platform


@pytest.fixture
def project_directory(tmp_path: Path) -> Path:
    """A minimal project, called demo."""
    directory = tmp_path / "demo"
    directory.mkdir()
    (directory / "clip.toml").write_text('name = "demo"\n')
    (directory / "app.py").write_text(
        "import clipper\n\n\n@clipper.function()\ndef shout(text: str, times: int = 1) -> str:\n"
        "    return text.upper() * times\n"
    )
    return directory
