"""Applications as they are declared: refusals, races and what other platforms do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from clipper.contract.applications import ApplicationSpec, LinkSpec
from clipper_platform.applications.catalog import Catalog, Declared
from clipper_platform.errors import Conflict, InvalidSpec, NotFound, StoreUnavailable
from clipper_platform.store.base import Application
from tests.support.memory_store import MemoryStore
from tests.unit.control.doubles import FakeClock

DOUBLES = {"parameters": {"properties": {"x": {"type": "array", "items": {"type": "number"}}}, "required": ["x"]}}
TEXT = {"parameters": {"properties": {"text": {"type": "string"}}, "required": ["text"]}}


class Functions:
    """Of the project "digits"."""

    def __init__(self) -> None:
        self.schemas: dict[str, Mapping[str, Any]] = {"classify": DOUBLES, "other": DOUBLES, "shout": TEXT}

    def has_project(self, name: str) -> bool:
        return name == "digits"

    async def schema(self, project: str, function: str, version: int | None) -> Mapping[str, Any]:
        if project != "digits" or function not in self.schemas or version not in (None, 1, 2):
            raise NotFound(f"there is no {project}/{function}")
        return self.schemas[function]


def spec(name: str = "sums", **table: Any) -> ApplicationSpec:
    return ApplicationSpec.parse(name, {"input_type": "doubles", "default_output": 0, **table})


def link(text: str, **table: Any) -> LinkSpec:
    return LinkSpec.parse({"function": text, **table})


class World:
    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.functions = Functions()
        self.away = False
        self.catalog = Catalog(self.store, self.functions, FakeClock(), check_store=self.check)
        self.changes: list[tuple[str, Declared | None]] = []
        self.catalog.on_change(lambda *change: self.changes.append(change))

    def check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")

    async def followed(self) -> None:
        await self.catalog.polled(await self.store.changes(0))


async def test_an_application_is_created_changed_and_deleted() -> None:
    world = World()
    created = await world.catalog.create(spec(links=["digits/classify"]))
    assert world.catalog.get("sums") == created
    with pytest.raises(Conflict, match="'sums' exists already"):
        await world.catalog.create(spec())
    same, changed = await world.catalog.put(spec(links=["digits/classify"]))
    assert (same, changed) == (created, False)
    other, changed = await world.catalog.put(spec(policy="exp3"))
    assert (other.record.revision, changed) == (2, True)
    await world.catalog.delete("sums")
    assert [(name, declared and declared.record.revision) for name, declared in world.changes] == [
        ("sums", 1),
        ("sums", 2),
        ("sums", None),
    ]
    with pytest.raises(NotFound, match="no application 'sums'"):
        world.catalog.get("sums")


async def test_it_is_there_after_a_restart_and_on_other_platforms() -> None:
    world = World()
    created = await world.catalog.create(spec())
    again = World(world.store)
    await again.catalog.load()
    assert again.catalog.get("sums") == created
    await again.catalog.link("sums", link("digits/classify"))
    await world.followed()
    assert [one.id for one in world.catalog.get("sums").spec.links] == ["digits/classify"]
    await world.catalog.delete("sums")
    await again.followed()
    assert again.catalog.names() == []


async def test_of_two_platforms_the_second_writer_is_refused_and_follows() -> None:
    one = World()
    await one.catalog.create(spec())
    other = World(one.store)
    await other.catalog.load()
    await one.catalog.put(spec(seed=1))
    with pytest.raises(Conflict):
        await other.catalog.put(spec(seed=2))
    await other.followed()
    assert other.catalog.get("sums").spec.seed == 1
    assert (await other.catalog.put(spec(seed=2)))[1]


async def test_links_are_added_replaced_and_removed() -> None:
    world = World()
    await world.catalog.create(spec())
    await world.catalog.link("sums", link("digits/classify"))
    await world.catalog.link("sums", link("digits/classify@2"))
    await world.catalog.link("sums", link("digits/other"))
    declared, changed = await world.catalog.link("sums", link("digits/classify@2", parameter="x"))
    assert changed
    assert [one.id for one in declared.spec.links] == ["digits/classify", "digits/classify@2", "digits/other"]
    assert declared.spec.links[1].parameter == "x"
    assert not (await world.catalog.link("sums", link("digits/other")))[1]
    declared = await world.catalog.unlink("sums", "digits/classify")
    assert [one.id for one in declared.spec.links] == ["digits/classify@2", "digits/other"]
    with pytest.raises(NotFound, match="linked: digits/classify@2, digits/other"):
        await world.catalog.unlink("sums", "digits/classify")
    with pytest.raises(NotFound, match="no application 'sum'; did you mean 'sums'"):
        await world.catalog.link("sum", link("digits/classify"))


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        (link("digits/nobody"), NotFound, "digits/nobody"),
        (link("digits/classify@7"), NotFound, "classify"),
        (link("nobody/f"), NotFound, "nobody/f"),
        (link("digits/shout"), InvalidSpec, "takes string"),
        (link("digits/classify", parameter="y"), InvalidSpec, "no parameter 'y'"),
    ],
)
async def test_a_function_that_is_not_there_or_takes_other_input_is_not_linked(
    bad: LinkSpec, kind: type[Exception], words: str
) -> None:
    world = World()
    await world.catalog.create(spec())
    with pytest.raises(kind, match=words):
        await world.catalog.link("sums", bad)
    with pytest.raises(kind, match=words):
        await world.catalog.create(spec("others", links=[table(bad)]))
    assert world.catalog.get("sums").spec.links == ()
    assert world.catalog.names() == ["sums"]


def table(one: LinkSpec) -> dict[str, Any]:
    return {"function": one.function, "version": one.version, "parameter": one.parameter}


async def test_weights_may_be_given_link_by_link_and_never_exceed_one() -> None:
    world = World()
    await world.catalog.create(spec(policy="split"))
    await world.catalog.link("sums", link("digits/classify", weight=0.7))
    with pytest.raises(InvalidSpec, match=r"sum to 1\.1"):
        await world.catalog.link("sums", link("digits/other", weight=0.4))
    await world.catalog.link("sums", link("digits/other", weight=0.3))


async def test_a_name_of_a_project_and_an_unknown_function_as_policy_are_refused() -> None:
    world = World()
    with pytest.raises(Conflict, match="there is a project 'digits'"):
        await world.catalog.create(spec("digits"))
    with pytest.raises(NotFound):
        await world.catalog.create(spec(policy="digits/nobody"))
    await world.catalog.create(spec(policy="digits/other"))


async def test_what_is_linked_stays_linked_when_its_function_is_gone() -> None:
    world = World()
    await world.catalog.create(spec(links=["digits/classify"]))
    del world.functions.schemas["classify"]
    declared, _ = await world.catalog.link("sums", link("digits/other"))
    assert len(declared.spec.links) == 2
    world.functions.schemas["classify"] = DOUBLES
    with pytest.raises(InvalidSpec, match="input type"):  # all links are checked against another input type
        await world.catalog.put(spec(input_type="strings", links=["digits/classify"]))


async def test_while_the_store_is_away_nothing_changes() -> None:
    world = World()
    await world.catalog.create(spec())
    world.away = True
    for change in (world.catalog.put(spec(seed=1)), world.catalog.delete("sums"), world.catalog.create(spec("a"))):
        with pytest.raises(StoreUnavailable):
            await change
    assert world.catalog.get("sums").spec.seed is None


async def test_a_write_of_unknown_outcome_is_read_again() -> None:
    world = World()
    await world.catalog.create(spec())
    world.store.outage = "gone"
    with pytest.raises(StoreUnavailable):
        await world.catalog.put(spec(seed=1))
    world.store.outage = ""
    (record,) = await world.store.list_applications()
    await world.store.put_application(Application(**{**_fields(record), "spec": spec(seed=1).to_dict()}))
    await world.followed()
    assert world.catalog.get("sums").spec.seed == 1


def _fields(record: Application) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


async def test_a_stored_application_that_cannot_be_read_is_ignored() -> None:
    world = World()
    await world.store.put_application(Application(name="odd", spec={"name": "odd"}, created_at=1.0, updated_at=1.0))
    await world.catalog.load()
    assert world.catalog.names() == []


@pytest.mark.parametrize(
    ("table", "key", "words"),
    [
        ({"policy": "exp3", "policy_options": {"exploraton": 0.1}}, "exploraton", "did you mean 'exploration'"),
        ({"policy": "epsilon_greedy", "policy_options": {"epsilon": 2}}, "epsilon", "at most 1"),
        ({"policy": "split", "policy_options": {"weights": {"digits/classify": 0.5}}}, "weights", "sum to 1"),
        ({"policy": "split", "policy_options": {"weights": {"digits/classify": -1}}}, "weights", "at least 0"),
        ({"policy": "digits/other", "policy_options": {"epsilon": 0.1}}, "policy", "your own"),
    ],
)
async def test_options_that_a_policy_does_not_have_are_refused(table: dict[str, Any], key: str, words: str) -> None:
    world = World()
    with pytest.raises(InvalidSpec, match=words) as refusal:
        await world.catalog.create(spec(**table))
    assert key in str(refusal.value.details["key"])
    assert world.catalog.names() == []
