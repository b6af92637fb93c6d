from __future__ import annotations

import pytest

from clipper_platform.control.access.keyring import Keyring
from clipper_platform.control.store_watch import StoreWatch
from clipper_platform.errors import Forbidden, Unauthenticated
from clipper_platform.gateway.auth import Access
from tests.support.memory_store import MemoryStore
from tests.unit.control.doubles import FakeClock

SCOPES = ("invoke", "deploy", "admin")


@pytest.fixture
async def secrets() -> tuple[Keyring, dict[str, str]]:
    store = MemoryStore()
    keyring = Keyring(store, FakeClock(), StoreWatch(store, FakeClock()))
    return keyring, {scope: (await keyring.create(scope, (scope,)))[1] for scope in SCOPES}


@pytest.mark.parametrize("wanted", SCOPES)
@pytest.mark.parametrize("held", SCOPES)
async def test_a_key_may_do_what_its_scope_includes(
    secrets: tuple[Keyring, dict[str, str]], held: str, wanted: str
) -> None:
    keyring, keys = secrets
    access = Access(keyring, open_invoke=False)
    if SCOPES.index(held) >= SCOPES.index(wanted):
        assert access.require(f"Bearer {keys[held]}", wanted).name == held  # type: ignore[arg-type]  # from a table
    else:
        with pytest.raises(Forbidden, match=f"scope {wanted}"):
            access.require(f"Bearer {keys[held]}", wanted)  # type: ignore[arg-type]  # from a table


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer clip_unknown", "clip_x", "\xff\xfe"]
)
async def test_without_a_known_key_nobody_is_let_in(
    secrets: tuple[Keyring, dict[str, str]], header: str | None
) -> None:
    with pytest.raises(Unauthenticated):
        Access(secrets[0], open_invoke=True).identify(header)


async def test_the_scheme_is_written_in_any_case(secrets: tuple[Keyring, dict[str, str]]) -> None:
    keyring, keys = secrets
    assert Access(keyring, open_invoke=False).identify(f"bearer  {keys['invoke']} ").name == "invoke"


async def test_functions_are_open_where_the_bind_is_loopback_or_the_function_is_public(
    secrets: tuple[Keyring, dict[str, str]],
) -> None:
    keyring, keys = secrets
    Access(keyring, open_invoke=True).authorize_invoke(None, public=False)
    closed = Access(keyring, open_invoke=False)
    closed.authorize_invoke(None, public=True)
    closed.authorize_invoke(f"Bearer {keys['invoke']}", public=False)
    with pytest.raises(Unauthenticated):
        closed.authorize_invoke(None, public=False)


async def test_a_revoked_key_is_refused_at_the_next_request(secrets: tuple[Keyring, dict[str, str]]) -> None:
    keyring, keys = secrets
    closed = Access(keyring, open_invoke=False)
    closed.authorize_invoke(f"Bearer {keys['invoke']}", public=False)
    await keyring.revoke(next(key.id for key in keyring.list() if key.name == "invoke"))
    with pytest.raises(Unauthenticated, match="revoked"):
        closed.authorize_invoke(f"Bearer {keys['invoke']}", public=False)
