from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_platform.control.access.keyring import Keyring, grants
from clipper_platform.control.store_watch import StoreWatch
from clipper_platform.errors import Conflict, InvalidRequest, NotFound, StoreUnavailable
from clipper_platform.store.base import Key
from tests.support.memory_store import MemoryStore
from tests.unit.control.doubles import FakeClock


def key(*scopes: str) -> Key:
    return Key(id="key_1", name="k", hash="0", scopes=scopes, created_at=0.0)  # type: ignore[arg-type]  # from a table


def keyring_on(store: MemoryStore) -> Keyring:
    return Keyring(store, FakeClock(), StoreWatch(store, FakeClock()))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def keyring(store: MemoryStore) -> Keyring:
    return keyring_on(store)


@pytest.mark.parametrize(
    ("held", "allowed"),
    [("invoke", {"invoke"}), ("deploy", {"invoke", "deploy"}), ("admin", {"invoke", "deploy", "admin"})],
)
def test_a_scope_includes_those_below_it(held: str, allowed: set[str]) -> None:
    assert {s for s in ("invoke", "deploy", "admin") if grants(key(held), s)} == allowed  # type: ignore[arg-type]


async def test_a_new_key_is_found_by_its_secret_and_only_its_hash_is_stored(
    keyring: Keyring, store: MemoryStore
) -> None:
    created, secret = await keyring.create("ci", ("deploy",))
    assert secret.startswith("clip_")
    assert len(secret) >= 5 + 43
    assert keyring.find(secret) == created
    assert keyring.find(secret + "x") is None
    assert secret not in repr(await store.list_keys())


async def test_keys_survive_a_restart(keyring: Keyring, store: MemoryStore) -> None:
    created, secret = await keyring.create("ci", ("invoke",))
    again = keyring_on(store)
    assert again.find(secret) is None
    await again.load()
    assert again.find(secret) == created


async def test_a_revoked_key_is_refused_at_once_and_after_a_restart(keyring: Keyring, store: MemoryStore) -> None:
    await keyring.create("root", ("admin",))
    created, secret = await keyring.create("ci", ("invoke",))
    revoked = await keyring.revoke(created.id)
    assert revoked.revoked_at == 1000.0
    assert keyring.find(secret) is None
    assert await keyring.revoke(created.id) == revoked
    again = keyring_on(store)
    await again.load()
    assert again.find(secret) is None
    assert [k.revoked_at for k in again.list() if k.id == created.id] == [1000.0]


async def test_the_last_admin_key_cannot_be_revoked(keyring: Keyring) -> None:
    first, _ = await keyring.create("root", ("admin",))
    await keyring.create("ci", ("deploy",))
    with pytest.raises(Conflict, match="last key"):
        await keyring.revoke(first.id)
    await keyring.create("second", ("admin",))
    await keyring.revoke(first.id)


async def test_an_unknown_key_cannot_be_revoked(keyring: Keyring) -> None:
    with pytest.raises(NotFound):
        await keyring.revoke("key_unknown")


@pytest.mark.parametrize(
    ("name", "scopes", "named"),
    [
        ("", ("invoke",), "name"),
        ("a\nb", ("invoke",), "name"),
        ("x" * 101, ("invoke",), "name"),
        ("ci", (), "scopes"),
        ("ci", ("root",), "scopes"),
    ],
)
async def test_bad_names_and_scopes_are_refused_by_key(
    keyring: Keyring, name: str, scopes: tuple[str, ...], named: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await keyring.create(name, scopes)
    assert refused.value.details["key"] == named


async def test_without_the_store_nothing_changes_and_known_keys_still_work(
    keyring: Keyring, store: MemoryStore
) -> None:
    await keyring.create("root", ("admin",))
    created, secret = await keyring.create("ci", ("invoke",))
    store.outage = "gone"
    with pytest.raises(StoreUnavailable):
        await keyring.create("other", ("invoke",))
    with pytest.raises(StoreUnavailable):
        await keyring.revoke(created.id)
    assert keyring.find(secret) == created


@given(st.text(alphabet=st.characters(), max_size=200))
def test_no_text_makes_the_look_up_fail(text: str) -> None:
    assert keyring_on(MemoryStore()).find(text) is None


# The admin key's file


async def test_the_first_start_makes_the_admin_key_for_its_owner_only(keyring: Keyring, tmp_path: Path) -> None:
    path = tmp_path / "home" / "api_key"
    assert "created the admin key" in str(await keyring.ensure_admin(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = keyring.find(path.read_text().strip())
    assert found is not None
    assert grants(found, "admin")
    assert [p.name for p in path.parent.iterdir()] == ["api_key"]


async def test_the_next_start_finds_it_again(keyring: Keyring, store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "api_key"
    await keyring.ensure_admin(path)
    before = path.read_text()
    again = keyring_on(store)
    await again.load()
    assert await again.ensure_admin(path) is None
    assert path.read_text() == before
    assert len(again.list()) == 1


async def test_a_lost_file_gives_a_new_key_and_says_so(keyring: Keyring, tmp_path: Path) -> None:
    path = tmp_path / "api_key"
    await keyring.ensure_admin(path)
    before = path.read_text().strip()
    path.unlink()
    assert "new admin key" in str(await keyring.ensure_admin(path))
    assert keyring.find(path.read_text().strip()) is not None
    assert keyring.find(before) is not None


async def test_the_file_of_another_store_is_registered_with_this_one(keyring: Keyring, tmp_path: Path) -> None:
    path = tmp_path / "api_key"
    await keyring.ensure_admin(path)
    secret = path.read_text().strip()
    other = keyring_on(MemoryStore())
    assert "did not know" in str(await other.ensure_admin(path))
    assert path.read_text().strip() == secret
    assert other.find(secret) is not None


async def test_a_revoked_key_in_the_file_is_replaced(keyring: Keyring, tmp_path: Path) -> None:
    path = tmp_path / "api_key"
    await keyring.ensure_admin(path)
    secret = path.read_text().strip()
    await keyring.create("other", ("admin",))
    found = keyring.find(secret)
    assert found is not None
    await keyring.revoke(found.id)
    assert await keyring.ensure_admin(path) is not None
    assert path.read_text().strip() != secret
    assert keyring.find(secret) is None


@pytest.mark.parametrize("content", ["", "nonsense", "clip_short", "\udcff\x00", "clip_" + "é" * 40])
async def test_a_file_without_a_key_is_replaced(keyring: Keyring, tmp_path: Path, content: str) -> None:
    path = tmp_path / "api_key"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    await keyring.ensure_admin(path)
    assert keyring.find(path.read_text().strip()) is not None


async def test_a_file_that_others_can_read_is_tightened(keyring: Keyring, tmp_path: Path) -> None:
    path = tmp_path / "api_key"
    await keyring.ensure_admin(path)
    path.chmod(0o644)
    await keyring.ensure_admin(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
