"""URLs that name a SQLite file."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipper_platform.errors import InvalidRequest
from clipper_platform.store.sqlite import SqliteStore


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/clip/clipper.db", Path("/var/lib/clip/clipper.db")),
        ("sqlite:////var/lib/clipper.db", Path("/var/lib/clipper.db")),
        ("sqlite:///with%20space/%C3%A9.db", Path("/with space/é.db")),
        ("sqlite:///./clipper.db", Path.cwd() / "clipper.db"),
        ("sqlite:///~/clipper.db", Path.home() / "clipper.db"),
    ],
)
def test_a_sqlite_url_names_a_file_and_the_store_shows_one_that_names_it_again(url: str, path: Path) -> None:
    store = SqliteStore.from_url(url)
    assert store.path == path
    assert SqliteStore.from_url(store.url).path == path


@pytest.mark.parametrize(
    "url",
    [
        *("sqlite://", "sqlite:///", "sqlite:///dir/", "sqlite:///:memory:", "sqlite:///a%00b", "sqlite://host/x.db"),
        *("sqlite:///x.db?mode=ro", "sqlite://[::1/x.db", "redis:///x", "clipper.db", ""),
    ],
)
def test_what_names_no_sqlite_file_is_refused_with_what_to_write(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"write sqlite:///path/to/clipper\.db"):
        SqliteStore.from_url(url)
