from __future__ import annotations

import inspect
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from clipper_platform import errors
from clipper_platform.errors import ClipperError
from clipper_platform.gateway.errors import render, translate

TAXONOMY = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, ClipperError) and cls is not ClipperError
]


def body_of(rendered: tuple[int, Any, bytes]) -> dict[str, Any]:
    found = msgspec.json.decode(rendered[2])
    assert set(found) == {"error"}
    error: dict[str, Any] = found["error"]
    return error


@pytest.mark.parametrize("cls", TAXONOMY)
def test_every_class_of_the_taxonomy_is_rendered_with_its_status_and_code(cls: type[ClipperError]) -> None:
    status, headers, body = render(cls("what happened", key="name"), "req-1")
    assert status == cls.status
    assert body_of((status, headers, body)) == {
        "code": cls.code,
        "message": "what happened",
        "request_id": "req-1",
        "key": "name",
    }
    fields = dict(headers)
    assert fields[b"content-type"] == b"application/json"
    assert fields[b"content-length"] == str(len(body)).encode()
    assert (b"retry-after" in fields) == (status in (429, 503))
    assert (b"www-authenticate" in fields) == (status == 401)


def test_the_taxonomy_is_whole() -> None:
    assert len(TAXONOMY) >= 24
    assert set(errors.__all__) >= {cls.__name__ for cls in TAXONOMY}


@pytest.mark.parametrize(
    ("given_s", "header"), [(0.01, b"1"), (2.0, b"2"), (2.1, b"3"), (float("inf"), b"1"), (None, b"1")]
)
def test_retry_after_is_whole_seconds_and_at_least_one(given_s: float | None, header: bytes) -> None:
    _, headers, _ = render(errors.QueueFull("full", retry_after_s=given_s), "r")
    assert dict(headers)[b"retry-after"] == header


def test_details_never_hide_the_code_the_message_or_the_id() -> None:
    error = errors.NotFound("gone", code="forged", request_id="forged")
    assert body_of(render(error, "r")) == {"code": "not_found", "message": "gone", "request_id": "r"}


def test_an_unknown_exception_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    rendered = render(ZeroDivisionError("secret"), "req-9")
    assert rendered[0] == 500
    assert body_of(rendered)["code"] == "internal_error"
    assert b"secret" not in rendered[2]
    (record,) = caplog.records
    assert record.__dict__["request_id"] == "req-9"
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_request"),
        (404, "not_found"),
        (405, "method_not_allowed"),
        (413, "payload_too_large"),
        (415, "unsupported_media_type"),
        (418, "invalid_request"),
        (503, "unavailable"),
        (599, "internal_error"),
    ],
)
def test_what_the_framework_raises_is_translated(status: int, code: str) -> None:
    assert translate(HTTPException(status)).code == code


def test_a_405_names_the_methods_there_are() -> None:
    status, headers, _ = render(HTTPException(405, headers={"Allow": "PUT, GET"}), "r")
    assert status == 405
    assert dict(headers)[b"allow"] == b"GET, PUT"


def test_a_client_that_went_away_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    assert render(ClientDisconnect(), "r")[0] == 499
    assert not caplog.records


class Odd:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@given(
    message=st.text(alphabet=st.characters(), max_size=30),
    detail=st.one_of(
        st.text(alphabet=st.characters(), max_size=30),
        st.floats(),
        st.binary(max_size=5),
        st.builds(Odd),
        st.dictionaries(st.integers(), st.text(max_size=3), max_size=2),
        st.recursive(st.none(), st.lists, max_leaves=5),
    ),
)
def test_whatever_an_error_says_it_is_rendered_as_json(message: str, detail: Any) -> None:
    status, _, body = render(errors.InvalidRequest(message, detail=detail), "r")
    assert status == 400
    assert msgspec.json.decode(body)["error"]["code"] == "invalid_request"
