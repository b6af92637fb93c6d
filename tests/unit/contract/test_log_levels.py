"""The level of a line, from what programs write at its beginning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.contract.log_levels import LevelReader


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("DEBUG:root:detail", "DEBUG"),
        ("2026-01-05 10:00:00,123 - my.module - DEBUG - detail", "DEBUG"),
        ("2026-01-05 10:00:00,123 WARNING low", "WARNING"),
        ("2026-01-05T10:00:00.123Z [INFO] up", "INFO"),
        ("[2026-01-05 10:00:00] [4711] [ERROR] no", "ERROR"),
        ("2026-01-05 10:00:00.123 | DEBUG    | app:f:3 - loguru", "DEBUG"),
        ("2026-01-05 10:00:00.123 | SUCCESS  | app:f:3 - loguru", "INFO"),
        ("INFO:     Started server process [1]", "INFO"),
        ("[debug] structured", "DEBUG"),
        ("warning: deprecated", "WARNING"),
        ("Error: no such file", "ERROR"),
        ("error[E0425]: rust", "INFO"),
        ("time=2026-01-05T10:00:00Z level=debug msg=x", "DEBUG"),
        ('{"level": "warn", "message": "x"}', "WARNING"),
        ('{"severity":"ERROR","message":"x"}', "ERROR"),
        ("W0105 10:00:00.000000 17 file.cc:3] glog", "WARNING"),
        ("2026-01-05 10:00:00.123456: W tensorflow/core.cc:1] low", "WARNING"),
        ("2026-01-05 10:00:00.123456: I tensorflow/core.cc:1] up", "INFO"),
        ("/app/x.py:3: UserWarning: careful", "WARNING"),
        ("CRITICAL:app:down", "CRITICAL"),
        ("(worker) FATAL - gone", "CRITICAL"),
        ("10:00:00 WARN  [main] low", "WARNING"),
        ("Exception in thread Thread-1 (f):", "ERROR"),
        ("the word ERROR in a sentence", "INFO"),
        ("  5%|▌         | 1/20 [00:01<00:19,  1.00s/it]", "INFO"),
        ("INFORMATION is no level", "INFO"),
        ("plain", "INFO"),
        ("", "INFO"),
    ],
)
def test_a_line_has_the_level_that_stands_at_its_beginning(line: str, level: str) -> None:
    assert LevelReader().of(line) == level


def test_all_lines_of_a_traceback_are_errors_and_those_around_it_are_not() -> None:
    text = """before
Traceback (most recent call last):
  File "app.py", line 3, in f
    g()
ValueError: no

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "app.py", line 5, in f
KeyError: 1
after"""
    reader = LevelReader()
    levels = [reader.of(line) for line in text.splitlines()]
    assert levels == ["INFO", *["ERROR"] * 4, "INFO", "ERROR", "INFO", *["ERROR"] * 3, "INFO"]


def test_a_report_of_a_fatal_error_is_critical_to_its_end() -> None:
    reader = LevelReader()
    report = ["Fatal Python error: Segmentation fault", "", "Current thread 0x7f (most recent call first):", "  File x"]
    assert [reader.of(line) for line in report] == ["CRITICAL"] * 4


@given(st.text(max_size=400))
def test_any_line_has_a_level(line: str) -> None:
    assert LevelReader().of(line) in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
