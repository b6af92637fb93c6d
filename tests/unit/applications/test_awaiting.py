"""Predictions that await feedback in memory: bounded, in order, found by input."""

from __future__ import annotations

import msgspec

from clipper_platform.applications.awaiting import Awaited, AwaitedPredictions, chunk_of, entries_of
from clipper_platform.applications.queries import decoder_of
from clipper_platform.core.selection import Choice


def entry(query_id: int, at: float = 1.0, *, input: bytes = b"[1.0]", output: bytes = b"1") -> Awaited:
    return Awaited(query_id, at, "", msgspec.Raw(input), msgspec.Raw(output), "p/f")


def kept(**limits: int) -> AwaitedPredictions:
    return AwaitedPredictions(decoder_of("doubles"), **limits)


def ids(awaiting: AwaitedPredictions, upto: int = 100) -> list[int]:
    return [id for id in range(upto) if awaiting.get(id) is not None]


def test_the_oldest_give_way_by_number_and_by_bytes() -> None:
    awaiting = kept(max_entries=3)
    for id in range(5):
        awaiting.add(entry(id))
    assert ids(awaiting) == [2, 3, 4]
    awaiting = kept(max_bytes=5 * entry(0).size)
    for id in range(10):
        awaiting.add(entry(id))
    assert ids(awaiting) == [5, 6, 7, 8, 9]
    awaiting.add(entry(10, output=b"x" * 10_000))
    assert len(awaiting) == 0  # one that is larger than all may be is not kept either


def test_what_is_too_old_is_forgotten() -> None:
    awaiting = kept()
    for id in range(5):
        awaiting.add(entry(id, at=float(id)))
    awaiting.remove(0)
    awaiting.remove(0)
    awaiting.expire(3.0)
    assert ids(awaiting) == [3, 4]
    awaiting.expire(10.0)
    assert len(awaiting) == 0


async def test_equal_inputs_are_found_newest_first_and_forgotten_with_their_prediction() -> None:
    awaiting = kept()
    for id, text in enumerate((b"[1.0, 2]", b"[1,2.0]", b"[2]", b"[1e0,2]")):
        awaiting.add(entry(id, at=float(id), input=text))
    wanted = msgspec.Raw(b" [1, 2] ")
    assert [one.query_id for one in await awaiting.by_input(wanted)] == [3, 1, 0]
    awaiting.remove(1)
    awaiting.add(entry(7, at=7.0, input=b"[1,2]"))
    assert [one.query_id for one in await awaiting.by_input(wanted)] == [7, 3, 0]
    awaiting.expire(5.0)
    assert [one.query_id for one in await awaiting.by_input(wanted)] == [7]
    assert await awaiting.by_input(msgspec.Raw(b"[3]")) == []


async def test_the_index_of_many_is_made_in_pieces() -> None:
    awaiting = kept()
    for id in range(2_000):
        awaiting.add(entry(id, at=float(id), input=b"[%d]" % (id % 10)))
    assert len(await awaiting.by_input(msgspec.Raw(b"[3]"))) == 200


def test_what_is_saved_is_read_again_as_it_was() -> None:
    awaiting = kept()
    choice = Choice(("p/a",), ("p/b",), {"p/a": 1.0}, "why")
    several = Awaited(
        5,
        2.5,
        "me",
        msgspec.Raw(b'[1,"\xc3\xa9"]'),
        msgspec.Raw(b"null"),
        choice=choice,
        default=True,
        answers={"p/b": msgspec.Raw(b"{}")},
        failed=("p/a",),
    )
    for one in (entry(1), entry(2), several):
        awaiting.add(one)
    awaiting.remove(2)
    entries = awaiting.unsaved_entries(10)
    assert [one.query_id for one in entries] == [1, 5]
    assert awaiting.unsaved == 0
    chunk = chunk_of(entries)
    assert (chunk.count, chunk.last_at) == (2, 2.5)
    again = kept()
    again.restore(entries_of(chunk))
    assert again.get(5) == several
    found = again.get(1)
    assert found is not None
    assert found.full_choice() == Choice(("p/f",), (), {"p/f": 1.0})
    assert found.all_answers() == {"p/f": msgspec.Raw(b"1")}
    assert again.unsaved == 0
    awaiting.not_saved(entries)
    assert awaiting.unsaved_entries(1) == [entry(1)]


def test_what_is_restored_takes_no_room_from_what_is_new() -> None:
    awaiting = kept(max_entries=3)
    awaiting.add(entry(1))
    awaiting.restore([entry(id) for id in (1, 2, 3, 4, 5)])
    assert ids(awaiting) == [1, 2, 3]
