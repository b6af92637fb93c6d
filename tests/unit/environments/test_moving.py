"""Moving references are looked up where they point, and a requirement is installed at what its reference meant."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from clipper.contract.requirements import Requirement, moving_requirements, parse_line
from clipper_platform.environments.moving import pinned, resolve


def requirement(line: str) -> Requirement:
    parsed = parse_line(line)
    assert isinstance(parsed, Requirement)
    return parsed


@pytest.fixture
def repository(tmp_path: Path) -> tuple[str, str, str]:
    """Its address, the commit of the branch `main` and that of the annotated tag `v1`, which is the one before."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (
        ["init", "-q", "-b", "main"], ["commit", "-q", "--allow-empty", "-m", "one"], ["tag", "-a", "v1", "-m", "v1"],
        ["commit", "-q", "--allow-empty", "-m", "two"], ["branch", "feature/x", "HEAD~1"],
    ):  # fmt: skip
        subprocess.run([*git, *command], check=True, timeout=30)
    commits = [
        subprocess.run([*git, "rev-parse", name], check=True, capture_output=True, text=True, timeout=30).stdout.strip()
        for name in ("main", "v1^{commit}")
    ]
    return f"git+file://{tmp_path}", commits[0], commits[1]


async def test_a_branch_a_tag_and_the_default_branch_mean_a_commit(repository: tuple[str, str, str]) -> None:
    address, main, before = repository
    lines = [
        f"a @ {address}@main",
        f"a @ {address}@v1",
        f"a @ {address}@feature/x",
        f"a @ {address}",
        f"{address}@none",
    ]
    found = await resolve(moving_requirements(lines), os.environ)
    assert found == {
        f"{address}@main": main, f"{address}@v1": before, f"{address}@feature/x": before, address: main,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "installed"),
    [
        ("a @ git+https://h/x.git@main#subdirectory=s", "a @ git+https://h/x.git@C#subdirectory=s"),
        ("git+ssh://git@h/x.git", "git+ssh://git@h/x.git@C"),
        ("git+ssh://git@h/x.git@v1 ; python_version > '3'", "git+ssh://git@h/x.git@C ; python_version > '3'"),
        ("git+file:///srv/x@main", "git+file:///srv/x@C"),
        ("https://h/x-1.zip", "https://h/x-1.zip"),
    ],
)
def test_the_requirement_is_installed_at_its_commit(line: str, installed: str) -> None:
    asked = requirement(line)
    assert pinned(asked, {asked.url: "C"}).line == installed
    assert pinned(asked, {}) == asked


@pytest.mark.parametrize(
    "line",
    ["a", "a==1", "a @ git+https://h/x@" + "0" * 40, "https://h/a-1-py3-none-any.whl#sha256=" + "0" * 64, "./wheels"],
)
def test_what_cannot_move_is_not_looked_up(line: str) -> None:
    assert moving_requirements([line]) == []


class _Archive(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        known = self.headers.get("Authorization") == "Basic bWU6dG9rZW4="
        self.send_response(200 if known else 401)
        self.send_header("ETag", '"one"')
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Archive) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


async def test_an_archive_means_what_its_server_says_of_it_and_no_key_is_kept(server: str) -> None:
    lines = [f"a @ http://me:token@{server}/a.zip", f"b @ http://{server}/b.zip", "c @ http://127.0.0.1:9/c.zip"]
    assert await resolve(moving_requirements(lines), os.environ) == {f"http://****@{server}/a.zip": '"one"'}
