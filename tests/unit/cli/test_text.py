from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.cli import text

NOW = 1_750_000_000.0


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (52_428_800, "50.0 MiB"), (None, "–")],
)
def test_sizes_are_told_in_binary_units(count: int | None, words: str) -> None:
    assert text.size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0042, "4.2 ms"),
        (0.25, "250 ms"),
        (0.9999, "1.0 s"),
        (12.34, "12.3 s"),
        (59.97, "1 min"),
        (125, "2 min 5 s"),
        (7260, "2 h 1 min"),
        (90_000, "1 d 1 h"),
        (None, "–"),
    ],
)
def test_durations_change_their_unit_with_their_length(seconds: float | None, words: str) -> None:
    assert text.duration(seconds) == words


@given(st.floats(0, 10**7))
def test_a_duration_never_shows_a_full_next_unit(seconds: float) -> None:
    assert not re.match(r"(1000(\.0)? ms|60\.0 s|60 min|24 h)", text.duration(seconds))


@pytest.mark.parametrize(
    ("before", "words"),
    [(1, "just now"), (42, "42 s ago"), (300, "5 min ago"), (7200, "2 h ago"), (200_000, "2 d ago")],
)
def test_moments_are_told_by_their_age(before: float, words: str) -> None:
    assert text.ago(NOW - before, NOW) == words


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("10m", NOW - 600),
        ("1.5h", NOW - 5400),
        ("250ms", NOW - 0.25),
        ("2d", NOW - 172_800),
        ("1750000000", NOW),
        ("1750000000.5", NOW + 0.5),
        ("2025-06-15T15:06:40+00:00", NOW),
        ("2025-06-15T15:06:40Z", NOW),
    ],
)
def test_since_takes_ages_dates_and_unix_seconds(written: str, moment: float) -> None:
    assert text.parse_since(written, NOW) == pytest.approx(moment)


@pytest.mark.parametrize("written", ["yesterday", "10", "10 parsecs", "2025-13-01", ""])
def test_a_time_that_is_none_is_refused_with_examples(written: str) -> None:
    with pytest.raises(ValueError, match=r"10m.*2026-01-31"):
        text.parse_since(written, NOW)


@given(st.text())
def test_cleaned_text_holds_nothing_that_a_terminal_obeys(raw: str) -> None:
    cleaned = text.clean(raw)
    assert all(c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160) for c in cleaned)
    assert text.clean(cleaned) == cleaned


def test_colours_are_dropped_and_other_controls_are_spelled_out() -> None:
    assert text.clean("\x1b[31mred\x1b[0m \x1b]0;title\x07bell\x07 back\x08") == "red bell\\x07 back\\x08"


def test_counts_agree_with_their_word() -> None:
    assert [text.plural(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert text.plural(2, "retry") == "2 retries"


def test_an_argument_is_what_was_typed_whatever_the_locale_made_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_locale(encoding: str, typed: bytes) -> str:
        monkeypatch.setattr("os.fsencode", lambda argument: argument.encode(encoding, "surrogateescape"))
        return text.as_typed(typed.decode(encoding, "surrogateescape"))

    for encoding in ("utf-8", "ascii", "latin-1"):
        assert in_locale(encoding, "grün €".encode()) == "grün €"
    assert in_locale("latin-1", b"gr\xfcn") == "grün"
    with pytest.raises(UnicodeEncodeError):
        in_locale("ascii", b"gr\xfcn")


@pytest.mark.parametrize(
    ("share", "drawn"),
    [
        (0, "          "),
        (1, "██████████"),
        (0.55, "█████▌    "),
        (0.01, "▏         "),
        (2, "██████████"),
        (-1, " " * 10),
    ],
)
def test_a_share_is_a_bar_of_ten_characters(share: float, drawn: str) -> None:
    assert text.bar(share) == drawn
