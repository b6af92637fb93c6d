"""Requests of the control API and what their answers must be; `control` has the calls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from clipper import errors
from clipper.contract.media_types import JSON, NDJSON
from clipper.direct import DirectConnection, reaches
from clipper.lines import LineReader, media_type
from clipper.location import find_platform
from clipper.retrying import Answer, OnRetry, Request, RetryPolicy

if TYPE_CHECKING:
    from clipper.transport import Connection

__all__ = ["ControlRequests", "as_list", "as_object", "segment"]


class ControlRequests:
    """How `ControlClient` reaches the platform: whole JSON answers and streams of lines.

    Without arguments the platform is found by `CLIP_URL` and `CLIP_API_KEY`, else in `~/.clip`. `timeout_s` bounds
    each call with its retries, except transfers and streams, where it bounds the wait for the next piece.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        *,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.location = find_platform(url, api_key)
        self.on_retry: OnRetry | None = None  # called for each failed try that is followed by another
        self.timeout_s = timeout_s
        self._retry = retry
        self._sleep = sleep
        self._direct: DirectConnection | None = None
        if reaches(self.location):
            self._direct = DirectConnection(self.location, retry=retry, sleep=sleep, on_retry=self._retried)

    def _retried(self, error: errors.ClipperError, delay_s: float) -> None:
        if self.on_retry is not None:
            self.on_retry(error, delay_s)

    @cached_property
    def _connection(self) -> Connection:
        """For streams, uploads and platforms on other machines; made when needed, as loading httpx takes 60 ms."""
        from clipper.transport import Connection

        return Connection(self.location, retry=self._retry, sleep=self._sleep, on_retry=self._retried)

    def close(self) -> None:
        if "_connection" in self.__dict__:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Requests

    def _whole(self, request: Request) -> Answer:
        return (self._direct or self._connection).send(request)

    def _get(self, path: str, params: Mapping[str, str | int | float] | None = None) -> dict[str, Any]:
        request = Request(method="GET", path=path, params=params or {}, timeout_s=self.timeout_s, safe=True)
        return as_object(self._whole(request).content)

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str | int | float] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        headers = {} if body is None else {"Content-Type": JSON}
        request = Request(
            method=method,
            path=path,
            content=content,
            headers=headers,
            params=params or {},
            timeout_s=timeout_s or self.timeout_s,
        )
        return as_object(self._whole(request).content)

    def _lines(
        self, path: str, params: Mapping[str, str | int | float], *, read_timeout_s: float
    ) -> Iterator[dict[str, Any]]:
        """Objects of an NDJSON stream; empty lines are heartbeats."""
        request = Request(method="GET", path=path, params=params, read_timeout_s=read_timeout_s, safe=True)
        reader = LineReader()
        with self._connection.open(request) as response:
            if (kind := media_type(response.headers)) != NDJSON:
                raise errors.UnexpectedAnswer(f"the answer is {kind or 'of no type'}, not {NDJSON}")
            for piece in self._connection.pieces(response):
                for line in reader.feed(piece):
                    if line.strip():
                        yield as_object(line)


def segment(text: str) -> str:
    """`text` as one segment of a path. Raises InvalidRequest for "", "." and "..", which a path drops."""
    if text in ("", ".", ".."):
        raise errors.InvalidRequest(f"{text!r} is not a name")
    return quote(text, safe=":@")


def as_object(data: bytes | str) -> dict[str, Any]:
    """A JSON object. Raises UnexpectedAnswer for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise errors.UnexpectedAnswer(f"the answer is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise errors.UnexpectedAnswer("the answer is not a JSON object; does something else answer at this address?")
    return value


def as_list(table: Mapping[str, Any], key: str) -> list[Any]:
    """The list `key` of an answer. Raises UnexpectedAnswer."""
    value = table.get(key)
    if not isinstance(value, list):
        raise errors.UnexpectedAnswer(f"the answer has no list {key!r}")
    return value
