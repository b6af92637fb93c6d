"""Predictions that await feedback in memory: bounded, in order, found by input."""

from __future__ import annotations

import msgspec

from clipper_platform.applications.awaiting import Awaited, AwaitedPredictions, Plain, chunk_of, entries_of
from clipper_platform.applications.queries import decoder_of
from clipper_platform.core.selection import Choice


def plain(query_id: int, at: float = 1.0, *, input: bytes = b"[1.0]", output: bytes = b"1") -> Plain:
    return query_id, at, "", msgspec.Raw(input), msgspec.Raw(output), "p/f"


def kept(**limits: int) -> AwaitedPredictions:
    return AwaitedPredictions(decoder_of("doubles"), **limits)


def added(awaiting: AwaitedPredictions, *entries: Plain | Awaited) -> None:
    for entry in entries:
        awaiting.add(entry, 10)


def ids(awaiting: AwaitedPredictions, upto: int = 100) -> list[int]:
    return [id for id in range(upto) if awaiting.get(id) is not None]


def save(awaiting: AwaitedPredictions) -> list[list[int]]:
    """Save all that is not; the ids of each chunk."""
    chunks = []
    while (segment := awaiting.next_unsaved()) is not None:
        chunk = chunk_of(awaiting.to_save(segment))
        chunks.append([entry.query_id for entry in entries_of(chunk)])
        awaiting.saved(segment)
    return chunks


def test_the_oldest_give_way_a_segment_at_a_time() -> None:
    awaiting = kept(max_entries=6, segment_entries=2)
    added(awaiting, *(plain(id) for id in range(9)))
    assert ids(awaiting) == [2, 3, 4, 5, 6, 7, 8]
    assert len(awaiting) == 7
    assert awaiting.unsaved == 7
    awaiting = kept(max_bytes=3000, segment_entries=2)
    added(awaiting, *(plain(id) for id in range(20)))
    assert ids(awaiting) == [16, 17, 18, 19]


def test_large_inputs_fill_a_segment_sooner() -> None:
    awaiting = kept(max_bytes=16_000)
    for id in range(100):
        awaiting.add(plain(id, input=b"x" * 500), 500)
    assert 10 < len(awaiting) <= 18


def test_what_is_too_old_is_forgotten_with_its_segment() -> None:
    awaiting = kept(segment_entries=2)
    added(awaiting, *(plain(id, at=float(id)) for id in range(7)))
    awaiting.remove(0)
    awaiting.remove(0)
    awaiting.expire(3.5)
    assert ids(awaiting) == [4, 5, 6]  # 2 is older, and 3 is in its segment
    save(awaiting)
    awaiting.expire(100.0)
    assert len(awaiting) == 0


async def test_equal_inputs_are_found_newest_first_and_forgotten_with_their_prediction() -> None:
    awaiting = kept(segment_entries=2)
    for id, text in enumerate((b"[1.0, 2]", b"[1,2.0]", b"[2]", b"[1e0,2]", b'"another type"')):
        added(awaiting, plain(id, at=float(id), input=text))
    wanted = msgspec.Raw(b" [1, 2] ")
    assert [one.query_id for one in await awaiting.by_input(wanted)] == [3, 1, 0]
    awaiting.remove(1)
    added(awaiting, plain(7, at=7.0, input=b"[1,2]"))
    assert [one.query_id for one in await awaiting.by_input(wanted)] == [7, 3, 0]
    awaiting.expire(3.5)
    assert [one.query_id for one in await awaiting.by_input(wanted)] == [7]
    assert await awaiting.by_input(msgspec.Raw(b"[3]")) == []


async def test_the_index_of_many_is_made_in_pieces() -> None:
    awaiting = kept()
    added(awaiting, *(plain(id, at=float(id), input=b"[%d]" % (id % 10)) for id in range(2_500)))
    assert len(await awaiting.by_input(msgspec.Raw(b"[3]"))) == 250


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
    added(awaiting, plain(1), plain(2), several)
    awaiting.remove(2)
    segment = awaiting.next_unsaved()
    assert segment is not None
    chunk = chunk_of(awaiting.to_save(segment))
    assert (chunk.count, chunk.last_at) == (2, 2.5)
    again = kept()
    again.restore(entries_of(chunk))
    assert again.get(5) == several
    found = again.get(1)
    assert found is not None
    assert found == awaiting.get(1)
    assert found.full_choice() == Choice(("p/f",), (), {"p/f": 1.0})
    assert found.all_answers() == {"p/f": msgspec.Raw(b"1")}
    assert again.unsaved == 0


def test_each_is_saved_once_and_small_segments_join() -> None:
    awaiting = kept(segment_entries=4)
    chunks = []
    for id in range(11):
        added(awaiting, plain(id))
        chunks += save(awaiting)
    assert chunks == [[id] for id in range(11)]
    assert ids(awaiting) == list(range(11))
    assert save(awaiting) == []
    added(awaiting, *(plain(id) for id in range(11, 21)))
    assert save(awaiting) == [[11, 12, 13, 14], [15, 16, 17, 18], [19, 20]]
    assert ids(awaiting) == list(range(21))


def test_what_is_forgotten_before_it_is_saved_is_not_saved() -> None:
    awaiting = kept(max_entries=4, segment_entries=2)
    added(awaiting, *(plain(id) for id in range(3)))
    segment = awaiting.next_unsaved()
    assert segment is not None
    added(awaiting, *(plain(id) for id in range(3, 8)))
    awaiting.saved(segment)  # it was forgotten meanwhile
    assert save(awaiting) == [[4, 5], [6, 7]]


def test_what_is_restored_is_older_and_takes_no_room_from_what_is_new() -> None:
    awaiting = kept(max_entries=4)
    added(awaiting, plain(1))
    awaiting.restore([Awaited(*plain(id)) for id in (1, 2, 3)])
    assert ids(awaiting) == [1, 2, 3]
    awaiting.restore([Awaited(*plain(id)) for id in (4, 5, 6)])
    assert ids(awaiting) == [1, 2, 3]
    awaiting.remove(2)
    awaiting.restore([Awaited(*plain(2))])  # it had its feedback
    assert ids(awaiting) == [1, 3]
