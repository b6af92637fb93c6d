"""Records as they are stored."""

from __future__ import annotations

import pytest

from clipper_platform.errors import StoreUnavailable
from clipper_platform.store.base import Key, Project
from clipper_platform.store.records import decode, encode


def test_fields_of_a_newer_clipper_are_passed_over() -> None:
    assert decode(Project, b'{"name": "p", "created_at": 1.0, "colour": "red"}', "x") == Project(
        name="p", created_at=1.0
    )


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"name": 1, "created_at": 1.0}', b"\xff"])
def test_a_record_that_no_clipper_wrote_is_an_outage_that_names_the_store(data: bytes) -> None:
    with pytest.raises(StoreUnavailable, match="the store at redis://db holds a project that cannot be read"):
        decode(Project, data, "redis://db")


def test_a_key_is_stored_with_its_hash_and_nothing_more() -> None:
    key = Key(id="key_1", name="n", hash="ab", scopes=("admin",), created_at=1.0, revision=1)
    assert decode(Key, encode(key), "x") == key
    assert encode(key) == (
        b'{"id":"key_1","name":"n","hash":"ab","scopes":["admin"],"created_at":1.0,"revoked_at":null,"revision":1}'
    )
