"""What a client takes by its `Accept` header, and what it prefers."""

from __future__ import annotations

import pytest

from clipper.contract.accept import Accept

FORMS = ("application/json", "application/msgpack", "image/png", "text/event-stream")


def preferred(header: str) -> str | None:
    """Of `FORMS`, as a server chooses."""
    accept = Accept.parse(header)
    found = {form: accept.preference(form) for form in FORMS}
    allowed = [form for form in FORMS if found[form] is not None]
    return max(allowed, key=lambda form: found[form] or (0.0, 0, 0), default=None)


@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/x-msgpack", "application/msgpack"),
        ("APPLICATION/MSGPACK;Q=1", "application/msgpack"),
        ("application/msgpack, application/json", "application/msgpack"),
        ("application/json;q=0.2, application/msgpack;q=0.8", "application/msgpack"),
        ("*/*, application/json;q=0.5", "application/msgpack"),
        ("*/*, image/png", "image/png"),
        ("image/*, */*;q=0.1", "image/png"),
        ("application/json;q=0, */*", "application/msgpack"),
        ("application/*;q=0, */*;q=0.001", "image/png"),
        ("*/*;q=0", None),
        ("text/html", None),
        ("nonsense, , ;q=1, */x", None),
        ('application/json;a="b,image/png;q=1"', "application/json"),
        ("application/json;q=nan, image/png;q=0.9", "application/json"),
        ("application/json;q=7, image/png", "application/json"),
        ("application/json;q=., image/png", "application/json"),
    ],
)
def test_the_form_that_is_wanted_most_is_preferred(header: str, form: str | None) -> None:
    assert preferred(header) == form
