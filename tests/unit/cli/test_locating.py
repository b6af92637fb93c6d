"""Errors in the user's own files."""

from __future__ import annotations

from pathlib import Path

from clipper.cli.locating import Locator, Place

TREE = "/home/x/.clip/bundles/trees/" + "a1" * 32
DIRECTORY = Path("/home/ada/demo")
RAISED = f'''Traceback (most recent call last):
  File "{TREE}/app.py", line 12, in classify
    return load(path)
           ^^^^^^^^^^
  File "{TREE}/models/load.py", line 3, in load
    raise ValueError(path)
  File "/usr/lib/python3.11/json/decoder.py", line 355, in raw_decode
    raise JSONDecodeError("x")
json.decoder.JSONDecodeError: Expecting value: line 1'''


def places(text: str) -> list[Place]:
    return Locator(DIRECTORY).places(text.splitlines())


def test_the_place_is_the_deepest_frame_in_the_project() -> None:
    assert places(RAISED) == [
        Place("models/load.py", 3, "load", "json.decoder.JSONDecodeError: Expecting value: line 1")
    ]
    assert str(places(RAISED)[0]).startswith("models/load.py:3 in load: ")


def test_a_syntax_error_has_a_place_without_a_traceback() -> None:
    text = f'  File "{TREE}/app.py", line 7\n    def f(:\n          ^\nSyntaxError: invalid syntax'
    assert places(text) == [Place("app.py", 7, "", "SyntaxError: invalid syntax")]


def test_an_error_with_a_cause_has_both_places() -> None:
    again = RAISED.replace("line 3, in load", "line 9, in again").replace("Expecting value: line 1", "twice")
    text = RAISED + "\n\nThe above exception was the direct cause of the following exception:\n\n" + again
    assert [place.line for place in places(text)] == [3, 9]


def test_an_error_elsewhere_and_ordinary_lines_have_none() -> None:
    elsewhere = 'Traceback (most recent call last):\n  File "/usr/lib/x.py", line 1, in x\nValueError: no'
    assert places(elsewhere) == []
    assert places("ValueError: said somebody\nloading app.py line 3\n") == []


def test_lines_of_one_traceback_may_come_one_by_one() -> None:
    locator = Locator(DIRECTORY)
    found = [locator.feed(line) for line in RAISED.splitlines()]
    assert found[:-1] == [None] * (len(found) - 1)
    assert found[-1] is not None


def test_paths_are_those_of_the_directory() -> None:
    line = f'  File "{TREE}/app.py", line 12, in classify'
    assert Locator(DIRECTORY).rewritten(line) == '  File "/home/ada/demo/app.py", line 12, in classify'
    assert Locator(DIRECTORY).rewritten("nothing to see") == "nothing to see"
