from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from clipper_platform import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield io.StringIO()
    root.setLevel(level)
    for handler in [h for h in root.handlers if h not in handlers]:
        root.removeHandler(handler)


def test_text_lines_carry_their_fields(stream: io.StringIO) -> None:
    logs.configure("info", "text", stream)
    logging.getLogger("clipper_platform.control.versions.deployer").info(
        "version %d answers", 3, extra={"project": "digits"}
    )
    line = stream.getvalue()
    assert line.endswith("INFO    control.versions.deployer  version 3 answers  project=digits\n")
    assert line[:4].isdigit()


def test_json_lines_are_objects_with_their_fields(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    logging.getLogger("x").warning("careful", extra={"request_id": "r1", "project": None})
    entry = json.loads(stream.getvalue())
    assert (entry["level"], entry["logger"], entry["message"], entry["request_id"]) == ("warning", "x", "careful", "r1")
    assert "project" not in entry


@pytest.mark.parametrize("format", ["text", "json"])
def test_nobody_can_forge_a_line(stream: io.StringIO, format: logs.LogFormat) -> None:
    logs.configure("info", format, stream)
    logging.getLogger("x").info("GET /a\n2026 ERROR forged\r\x1b[31m", extra={"path": "b\nforged"})
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("format", ["text", "json"])
def test_tracebacks_are_told(stream: io.StringIO, format: logs.LogFormat) -> None:
    logs.configure("info", format, stream)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("x").exception("failed")
    assert "ValueError: why" in stream.getvalue()


def test_a_lone_surrogate_does_not_lose_the_line(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    logging.getLogger("x").info("bad \udcff", extra={"value": object()})
    assert "bad" in json.loads(stream.getvalue())["message"]


def test_configuring_again_replaces_and_levels_hold(stream: io.StringIO) -> None:
    logs.configure("info", "text", io.StringIO())
    logs.configure("warning", "text", stream)
    logging.getLogger("x").info("no")
    logging.getLogger("x").warning("yes")
    assert stream.getvalue().count("\n") == 1


def test_unknown_levels_and_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        logs.configure("loud")
    with pytest.raises(ValueError, match="xml"):
        logs.configure("info", "xml")  # type: ignore[arg-type]  # that is the point
