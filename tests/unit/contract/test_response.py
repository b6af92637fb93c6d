"""What a function may say about its HTTP answer."""

from __future__ import annotations

import pytest

from clipper.contract.response import MAX_HEADERS, header_problem, headers_problem, status_problem


@pytest.mark.parametrize("status", [200, 204, 302, 404, 599])
def test_the_status_of_a_whole_answer_is_allowed(status: int) -> None:
    assert status_problem(status) == ""


@pytest.mark.parametrize("status", [0, 100, 199, 600, -1, True, "200", 200.0, None])
def test_any_other_status_is_refused(status: object) -> None:
    assert "from 200 to 599" in status_problem(status)


@pytest.mark.parametrize("name", ["X-Thing", "Location", "ETag", "Cache-Control", "Content-Disposition", "Retry-After"])
def test_a_header_of_the_answer_is_allowed(name: str) -> None:
    assert header_problem(name, 'a value; with="quotes", é') == ""


@pytest.mark.parametrize(
    "name",
    [
        *("Content-Length", "transfer-encoding", "Connection", "Keep-Alive", "Upgrade", "TE", "Trailer", "Date"),
        *("Set-Cookie", "Content-Type", "X-Clip-Version", "x-request-id", "Access-Control-Allow-Origin"),
        *("Strict-Transport-Security", "Clear-Site-Data", "Cache-Status", "Server-Timing", "Alt-Svc"),
    ],
)
def test_a_header_that_is_not_the_functions_is_refused_with_the_reason(name: str) -> None:
    assert "cannot be set by a function" in header_problem(name, "x")


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\n", "é", "x" * 200, 5, None])
def test_what_is_no_name_of_a_header_is_refused(name: object) -> None:
    assert "no name of a header" in header_problem(name, "x")


@pytest.mark.parametrize("value", ["a\r\nset-cookie: b", "a\n", "a\0", "\u2603", " a", "a ", 5, b"x", "\x7f"])
def test_a_value_that_would_leave_its_line_is_refused(value: object) -> None:
    assert "text of one line" in header_problem("x", value)


def test_number_and_size_of_the_headers_are_bounded() -> None:
    assert headers_problem([(f"x-{n}", "1") for n in range(MAX_HEADERS)]) == ""
    assert "too many" in headers_problem([(f"x-{n}", "1") for n in range(MAX_HEADERS + 1)])
    assert "too many or too long" in headers_problem([("x", "y" * 9000)])
    assert "no name" in headers_problem([("x", "1"), ("", "2")])
