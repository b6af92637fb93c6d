from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_platform.errors import Forbidden
from clipper_platform.gateway.origin_policy import OriginPolicy, is_loopback

LOCAL = "127.0.0.1:8700"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("example.com", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("", False),
    ],
)
def test_which_names_are_this_machine_and_nothing_else(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8700", "127.0.0.1", "127.0.0.1:1", "127.1.2.3:80", "[::1]", "[::1]:8700", "LocalHost:1"],
)
def test_a_loopback_bind_answers_to_loopback_names_on_any_port(host: str) -> None:
    OriginPolicy("127.0.0.1").check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:8700",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8700",
        "192.168.1.5:8700",
        "[::2]:8700",
        "localhost:8700@evil.example",
        "evil.example/localhost",
        "localhost:notaport",
        "user@localhost",
        "localhost, evil.example",
    ],
)
def test_a_loopback_bind_refuses_every_other_host(host: str | None) -> None:
    with pytest.raises(Forbidden):
        OriginPolicy("localhost").check_host(host)


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=40))
def test_no_host_header_breaks_the_check(host: str) -> None:
    allowed = OriginPolicy("127.0.0.1").allows_host(host)
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    assert not allowed or is_loopback(name.rstrip(":"))


def test_another_bind_answers_to_any_host() -> None:
    OriginPolicy("0.0.0.0").check_host("platform.example")
    OriginPolicy("0.0.0.0").check_host(None)


@pytest.mark.parametrize(
    ("origin", "site", "host"),
    [
        (None, None, LOCAL),  # not a browser
        (None, "none", LOCAL),  # typed into the address bar
        (None, "same-origin", LOCAL),
        ("http://127.0.0.1:8700", "same-origin", LOCAL),
        ("http://localhost:8700", None, "localhost:8700"),
        ("http://localhost", None, "localhost"),
        ("http://localhost:80", None, "localhost"),
        ("https://localhost:8700", None, "localhost:8700"),  # TLS ends before us
        ("http://[::1]:8700", None, "[::1]:8700"),
    ],
)
def test_requests_of_our_own_origin_and_of_no_browser_pass(origin: str | None, site: str | None, host: str) -> None:
    assert OriginPolicy("127.0.0.1").check_origin(origin, site, host) is False


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        ("https://evil.example", "cross-site"),
        ("https://evil.example", None),
        ("http://localhost:3000", "same-site"),
        ("http://127.0.0.1", None),  # port 80, not ours
        ("null", None),
        ("", None),
        ("http://127.0.0.1:8700.evil.example", None),
        ("http://127.0.0.1:99999", None),
        (None, "cross-site"),
        (None, "same-site"),
    ],
)
def test_a_browsers_cross_origin_request_is_refused_on_a_loopback_bind(origin: str | None, site: str | None) -> None:
    with pytest.raises(Forbidden, match="--cors-origin"):
        OriginPolicy("127.0.0.1").check_origin(origin, site, LOCAL)


def test_an_allowed_origin_passes_and_gets_cors_headers() -> None:
    policy = OriginPolicy("127.0.0.1", ("http://localhost:3000", "https://app.example:443/"))
    assert policy.check_origin("http://localhost:3000", "same-site", LOCAL)
    assert policy.check_origin("https://APP.example", "cross-site", LOCAL)
    with pytest.raises(Forbidden):
        policy.check_origin("http://app.example", None, LOCAL)
    assert (
        dict(policy.cors_headers("http://localhost:3000"))[b"access-control-allow-origin"] == b"http://localhost:3000"
    )


def test_a_star_allows_every_origin() -> None:
    policy = OriginPolicy("127.0.0.1", ("*",))
    assert policy.check_origin("https://any.example", None, LOCAL)
    assert policy.check_origin(None, "cross-site", LOCAL) is False


def test_on_another_bind_keys_decide_and_other_origins_get_no_cors_headers() -> None:
    policy = OriginPolicy("0.0.0.0", ("https://app.example",))
    assert policy.check_origin("https://other.example", "cross-site", "platform.example") is False
    assert policy.check_origin("https://app.example", "cross-site", "platform.example")


@pytest.mark.parametrize(
    "value", ["app.example", "https://app.example/path", "https://", "https://u@app.example", "http://a:b"]
)
def test_what_is_not_an_origin_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(ValueError, match=r"origin|[Pp]ort"):
        OriginPolicy("127.0.0.1", (value,))
