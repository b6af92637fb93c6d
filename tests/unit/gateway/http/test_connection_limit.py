"""Connections beyond the limit of descriptors."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from clipper_platform.gateway.http.connection_limit import LOG_PERIOD_S, Admission, ConnectionLimit


def transport(descriptor: int) -> Any:
    return SimpleNamespace(get_extra_info=lambda _: SimpleNamespace(fileno=lambda: descriptor))


def test_a_connection_in_the_reserve_is_refused_and_one_in_its_last_half_is_closed_at_once() -> None:
    refused: list[None] = []
    limit = ConnectionLimit(192, 256, now=lambda: 0.0, on_refused=lambda: refused.append(None))
    assert [limit.admit(transport(n)) for n in (5, 191, 192, 223, 224)] == [
        Admission.ADMITTED,
        Admission.ADMITTED,
        Admission.REFUSED,
        Admission.REFUSED,
        Admission.CLOSED,
    ]
    assert len(refused) == 3
    assert ConnectionLimit.none().admit(transport(10**6)) is Admission.ADMITTED


def test_refusals_are_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    limit = ConnectionLimit(192, 256, now=lambda: now[0], on_refused=lambda: None)
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            limit.admit(transport(200))
        assert len(caplog.records) == 1
        now[0] += LOG_PERIOD_S
        limit.admit(transport(200))
    assert len(caplog.records) == 2
    assert "ulimit -n" in caplog.text
