"""The wire, byte for byte: what other implementations test themselves against, and what the documentation prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clipper.contract import wire
from clipper.contract.frames import FrameReader

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "infra" / "docs" / "wire-protocol.md"
VECTORS: list[dict[str, Any]] = json.loads((HERE / "wire_vectors.json").read_text())
SENT = [v for v in VECTORS if v.get("direction") != "read"]


def message_of(vector: dict[str, Any]) -> Any:
    return msgspec.convert(vector["fields"], wire.KINDS[vector["kind"]])


@pytest.mark.parametrize("vector", SENT, ids=lambda v: v["name"])
def test_a_message_is_encoded_to_exactly_these_bytes(vector: dict[str, Any]) -> None:
    body = bytes.fromhex(vector["body"])
    assert (wire.encode(message_of(vector), len(body)) + body).hex() == vector["frame"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_these_bytes_are_read_as_the_message(vector: dict[str, Any]) -> None:
    (frame,) = FrameReader().feed(bytes.fromhex(vector["frame"]))
    assert type(frame.message).__name__ == vector["message"]
    assert frame.message == message_of(vector)
    assert frame.body.hex() == vector["body"]


def test_there_is_a_vector_for_every_message() -> None:
    assert {v["kind"] for v in SENT} == set(wire.KINDS)
    assert [v["message"] for v in VECTORS] == [wire.KINDS[v["kind"]].__name__ for v in VECTORS]


def table_after(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading of the document, without its head."""
    rows: list[list[str]] = []
    for line in DOCUMENT.read_text().partition(f"\n{heading}\n")[2].splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return rows[2:]


def test_the_documents_vectors_are_these() -> None:
    expected = [
        [
            v["name"],
            v["message"],
            f"`{json.dumps(v['fields'])}`",
            f"`{v['body']}`" if v["body"] else "",
            f"`{v['frame']}`",
        ]
        for v in VECTORS
    ]
    assert table_after("## Test vectors") == expected


def test_the_document_names_every_kind_and_status_with_its_number() -> None:
    kinds = {int(row[0]): row[1].strip("`") for row in table_after("## Messages")}
    assert kinds == {kind: cls.__name__ for kind, cls in wire.KINDS.items()}
    statuses = {int(row[0]): row[1].strip("`") for row in table_after("## Status codes")}
    assert statuses == {int(status): status.name for status in wire.Status}


def test_the_document_lists_every_field_in_order() -> None:
    text = DOCUMENT.read_text()
    for cls in [*wire.KINDS.values(), wire.Item, wire.Outcome, wire.ResponseHead, wire.LogRecord]:
        fields = [row[0].strip("`") for row in table_after(f"### {cls.__name__}")]
        assert fields == list(cls.__struct_fields__), cls.__name__
    assert f"version **{wire.PROTOCOL_VERSION}**" in text
    assert f"{wire.MAX_FRAME_BYTES:,}" in text
    assert f"{wire.MAX_HEADER_BYTES:,}" in text
    assert f"**{wire.INITIAL_CREDIT}** chunks" in text
