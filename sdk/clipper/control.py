"""The control API (`infra/docs/control-api.md`), one method per call. `clip` and `clipper.deploy` use it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from clipper import errors
from clipper.address import FunctionAddress
from clipper.contract.constants import API_ROOT
from clipper.contract.media_types import EVENT_STREAM, GZIP, JSON, NDJSON
from clipper.direct import DirectConnection, reaches
from clipper.lines import LineReader, media_type
from clipper.location import find_platform
from clipper.retrying import Answer, OnRetry, Request, RetryPolicy

if TYPE_CHECKING:
    from clipper.transport import Connection

__all__ = ["Answer", "ControlClient"]

# Large enough that a call per piece costs nothing, small enough that progress moves.
_UPLOAD_PIECE_BYTES: Final = 256 * 1024

# A build may print nothing for minutes: a stream without an event for this long is opened again, for one request.
EVENT_SILENCE_S: Final = 60.0

# How often an event stream without a new event is opened again, and the first pause.
_MAX_RECONNECTS: Final = 6
_RECONNECT_DELAY_S: Final = 0.2


class ControlClient:
    """Blocking client of the control API; safe to share between threads. Every method raises `clipper.errors`.

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

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Platform

    def info(self) -> dict[str, Any]:
        """Version, address, backend, store, interpreters, limits, and who the key belongs to."""
        return self._get(f"{API_ROOT}/info")

    def storage(self) -> dict[str, Any]:
        """By kind (versions, bundles, environments, logs): `count`, `bytes`, `unused_count`, `unused_bytes`."""
        return self._get(f"{API_ROOT}/storage")

    def clean_storage(self) -> dict[str, Any]:
        """Remove what is unused, now; `count` and `bytes` by kind."""
        # An environment with a large framework takes seconds to remove.
        return self._send("POST", f"{API_ROOT}/storage/clean", timeout_s=self.timeout_s + 120.0)

    # Bundles

    def has_bundle(self, digest: str) -> bool:
        """Whether the platform holds these bytes already."""
        answer = self._whole(
            Request(
                method="HEAD",
                path=f"{API_ROOT}/bundles/{_segment(digest)}",
                timeout_s=self.timeout_s,
                safe=True,
                expected=frozenset({404}),
            )
        )
        return answer.status == 200

    def put_bundle(
        self, digest: str, data: bytes, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Any]:
        """Upload an archive; `progress(sent, total)` is called with bytes as they leave."""

        def pieces() -> Iterator[bytes]:
            for start in range(0, len(data), _UPLOAD_PIECE_BYTES):
                yield data[start : start + _UPLOAD_PIECE_BYTES]
                if progress is not None:
                    progress(min(start + _UPLOAD_PIECE_BYTES, len(data)), len(data))

        return _table(
            self._connection.send(
                Request(
                    method="PUT",
                    path=f"{API_ROOT}/bundles/{_segment(digest)}",
                    content=pieces,
                    content_length=len(data),
                    headers={"Content-Type": GZIP},
                    # The platform unpacks and checks before it answers: by the size, at 10 MB/s.
                    read_timeout_s=self.timeout_s + len(data) / 10e6,
                    safe=True,  # content-addressed: sending it twice is sending it once
                )
            )
        )

    # Deployments

    def create_deployment(
        self, project: str, manifest: Mapping[str, Any], force: bool = False, rebuild: bool = False
    ) -> dict[str, Any]:
        """Begin a deployment of `Manifest.to_dict()`. Raises Conflict while another of the project runs."""
        body = {**manifest, "force": force, **({"rebuild": True} if rebuild else {})}
        return self._send("POST", f"{API_ROOT}/projects/{_segment(project)}/deployments", body)

    def deployment(self, id: str) -> dict[str, Any]:
        return self._get(f"{API_ROOT}/deployments/{_segment(id)}")

    def deployment_events(self, id: str, after: int = 0) -> Iterator[dict[str, Any]]:
        """Events with a number above `after`, live, until `done`. A broken stream goes on where it broke."""
        failures = 0
        while True:
            try:
                for event in self._lines(
                    f"{API_ROOT}/deployments/{_segment(id)}/events", {"after": after}, read_timeout_s=EVENT_SILENCE_S
                ):
                    failures, after = 0, int(event.get("seq", after))
                    yield event
                    if event.get("kind") == "done":
                        return
                broken: errors.ClipperError = errors.ConnectionLost("the stream of events ended before the deployment")
            except errors.DeadlineExceeded:
                continue  # a long build without events is no failure
            except (errors.ConnectionLost, errors.PlatformUnreachable) as error:
                broken = error
            failures += 1
            if failures > _MAX_RECONNECTS:
                raise broken
            self._sleep(_RECONNECT_DELAY_S * 2 ** (failures - 1))

    def cancel_deployment(self, id: str) -> dict[str, Any]:
        """Cancel it; callers keep the version that they had."""
        return self._send("DELETE", f"{API_ROOT}/deployments/{_segment(id)}")

    # Projects and versions

    def projects(self) -> list[dict[str, Any]]:
        return _list(self._get(f"{API_ROOT}/projects"), "projects")

    def project(self, name: str) -> dict[str, Any]:
        """The project's status, with that of each function and the newest events."""
        return self._get(f"{API_ROOT}/projects/{_segment(name)}")

    def delete_project(self, name: str) -> dict[str, Any]:
        """Drain and delete."""
        # Draining waits for running invocations, up to the functions' graceful_shutdown_timeout_s.
        return self._send("DELETE", f"{API_ROOT}/projects/{_segment(name)}", timeout_s=self.timeout_s + 120.0)

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Newest first."""
        return _list(self._get(f"{API_ROOT}/projects/{_segment(name)}/versions"), "versions")

    def rollback(self, name: str, version: int | None = None) -> dict[str, Any]:
        """Route to `version`, or to the one before. Raises NotFound, Conflict."""
        body = {} if version is None else {"version": version}
        # The old version's replicas may have to start again before the route flips.
        return self._send(
            "POST", f"{API_ROOT}/projects/{_segment(name)}/rollback", body, timeout_s=self.timeout_s + 300.0
        )

    def restart(self, name: str, function: str | None = None) -> dict[str, Any]:
        """Replace the replicas of one function or of all; their state after that. Raises NotFound, Conflict."""
        path = f"{API_ROOT}/projects/{_segment(name)}/restart"
        return self._send("POST", path, {"function": function}, timeout_s=self.timeout_s + 300.0)

    def policy(self, project: str, function: str) -> dict[str, Any]:
        """The autoscaling policy in effect, and whether it was deployed or applied."""
        return self._get(f"{_function(project, function)}/policy")

    def put_policy(self, project: str, function: str, policy: Mapping[str, Any], digest: str = "") -> dict[str, Any]:
        """Apply a policy now. Raises InvalidSpec."""
        body = {"policy": dict(policy), "digest": digest}
        return self._send("PUT", f"{_function(project, function)}/policy", body)

    def delete_policy(self, project: str, function: str) -> dict[str, Any]:
        """Return to the deployed policy. Raises NotFound where none was applied."""
        return self._send("DELETE", f"{_function(project, function)}/policy")

    def decisions(self, project: str, function: str) -> dict[str, Any]:
        """The latest scaling decision, and the last changes of the number of replicas."""
        return self._get(f"{_function(project, function)}/decisions")

    def logs(
        self,
        project: str,
        function: str,
        tail: int | None = None,
        since: float | None = None,
        follow: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Log records, oldest first: the last `tail`, those after Unix time `since`; with `follow`, without end."""
        params: dict[str, str | int | float] = {}
        if tail is not None:
            params["tail"] = tail
        if since is not None:
            params["since"] = since
        if follow:
            params["follow"] = 1
        path = f"{API_ROOT}/projects/{_segment(project)}/functions/{_segment(function)}/logs"
        # Heartbeats come several times a minute, so a longer silence means that the connection is lost.
        yield from self._lines(path, params, read_timeout_s=max(self.timeout_s, EVENT_SILENCE_S))

    # Keys and secrets

    def create_key(self, name: str, scopes: list[str]) -> dict[str, Any]:
        """A new key; its `key` is shown this once."""
        return self._send("POST", f"{API_ROOT}/keys", {"name": name, "scopes": list(scopes)})

    def keys(self) -> list[dict[str, Any]]:
        return _list(self._get(f"{API_ROOT}/keys"), "keys")

    def revoke_key(self, id: str) -> dict[str, Any]:
        return self._send("DELETE", f"{API_ROOT}/keys/{_segment(id)}")

    def put_secret(self, project: str, name: str, value: str) -> dict[str, Any]:
        """Replicas started from now on see it."""
        return self._send("PUT", f"{API_ROOT}/projects/{_segment(project)}/secrets/{_segment(name)}", {"value": value})

    def secrets(self, project: str) -> list[str]:
        """Names only: the platform does not give values back."""
        return [str(name) for name in _list(self._get(f"{API_ROOT}/projects/{_segment(project)}/secrets"), "secrets")]

    def delete_secret(self, project: str, name: str) -> dict[str, Any]:
        return self._send("DELETE", f"{API_ROOT}/projects/{_segment(project)}/secrets/{_segment(name)}")

    # Functions

    def invoke(
        self,
        path: str,
        body: bytes,
        content_type: str = JSON,
        accept: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """One invocation of "project/function[@version]" with an encoded body; the answer is not decoded."""
        return self._whole(
            Request(
                method="POST",
                path=FunctionAddress.parse(path).url_path,
                content=body,
                headers={"Content-Type": content_type} | ({"Accept": accept} if accept else {}),
                timeout_s=timeout_s,
                deadline=True,
            )
        )

    def stream(self, path: str, body: bytes, content_type: str = JSON) -> Iterator[Any]:
        """The items of a streaming function, as they come. An `error` event is raised as what it carries."""
        from clipper.item_stream import ItemStream

        request = Request(
            method="POST",
            path=FunctionAddress.parse(path).url_path,
            content=body,
            headers={"Content-Type": content_type, "Accept": EVENT_STREAM},
        )
        with self._connection.open(request) as response:
            items = ItemStream(response.headers)
            for piece in self._connection.pieces(response):
                yield from items.feed(piece)
                if items.ended:
                    return
        items.check_ended()

    def schema(self, path: str) -> dict[str, Any]:
        """The JSON Schema of "project/function[@version]"."""
        return self._get(f"{FunctionAddress.parse(path).url_path}/schema")

    # Requests

    def _whole(self, request: Request) -> Answer:
        return (self._direct or self._connection).send(request)

    def _get(self, path: str, params: Mapping[str, str | int | float] | None = None) -> dict[str, Any]:
        request = Request(method="GET", path=path, params=params or {}, timeout_s=self.timeout_s, safe=True)
        return _table(self._whole(request))

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        headers = {} if body is None else {"Content-Type": JSON}
        request = Request(
            method=method, path=path, content=content, headers=headers, timeout_s=timeout_s or self.timeout_s
        )
        return _table(self._whole(request))

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
                        yield _object(_decoded(line))


def _function(project: str, function: str) -> str:
    return f"{API_ROOT}/projects/{_segment(project)}/functions/{_segment(function)}"


def _segment(text: str) -> str:
    """`text` as one segment of a path. Raises InvalidRequest for "", "." and "..", which a path drops."""
    if text in ("", ".", ".."):
        raise errors.InvalidRequest(f"{text!r} is not a name")
    return quote(text, safe=":@")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise errors.UnexpectedAnswer("the answer is not a JSON object; does something else answer at this address?")
    return value


def _decoded(data: bytes | str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise errors.UnexpectedAnswer(f"the answer is not valid JSON: {error}") from None


def _table(answer: Answer) -> dict[str, Any]:
    return _object(_decoded(answer.content))


def _list(table: Mapping[str, Any], key: str) -> list[Any]:
    value = table.get(key)
    if not isinstance(value, list):
        raise errors.UnexpectedAnswer(f"the answer has no list {key!r}")
    return value
