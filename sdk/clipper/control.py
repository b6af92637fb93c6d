"""The control API (`infra/docs/control-api.md`), one method per call. `clip` and `clipper.deploy` use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from clipper import errors
from clipper.address import FunctionAddress
from clipper.contract.constants import API_ROOT
from clipper.contract.media_types import EVENT_STREAM, GZIP, JSON
from clipper.control_apps import ApplicationCalls
from clipper.control_materializations import MaterializationCalls
from clipper.control_requests import as_list, as_object, segment
from clipper.retrying import Answer, Request

__all__ = ["Answer", "ControlClient"]

# Large enough that a call per piece costs nothing, small enough that progress moves.
_UPLOAD_PIECE_BYTES: Final = 256 * 1024

# A build may print nothing for minutes: a stream without an event for this long is opened again, for one request.
EVENT_SILENCE_S: Final = 60.0

# How often an event stream without a new event is opened again, and the first pause.
# The largest graceful_shutdown_timeout_s: a delete is answered when the last call that runs has ended.
_MAX_DRAIN_S: Final = 7 * 86_400.0

_MAX_RECONNECTS: Final = 6
_RECONNECT_DELAY_S: Final = 0.2


class ControlClient(ApplicationCalls, MaterializationCalls):
    """Blocking client of the control API; safe to share between threads. Every method raises `clipper.errors`.

    `ControlRequests` says what it is made with.
    """

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
                path=f"{API_ROOT}/bundles/{segment(digest)}",
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

        request = Request(
            method="PUT",
            path=f"{API_ROOT}/bundles/{segment(digest)}",
            content=pieces,
            content_length=len(data),
            headers={"Content-Type": GZIP},
            # The platform unpacks and checks before it answers: by the size, at 10 MB/s.
            read_timeout_s=self.timeout_s + len(data) / 10e6,
            safe=True,  # content-addressed: sending it twice is sending it once
        )
        return as_object(self._connection.send(request).content)

    # Deployments

    def create_deployment(
        self, project: str, manifest: Mapping[str, Any], force: bool = False, rebuild: bool = False
    ) -> dict[str, Any]:
        """Begin a deployment of `Manifest.to_dict()`. Raises Conflict while another of the project runs."""
        body = {**manifest, "force": force, **({"rebuild": True} if rebuild else {})}
        return self._send("POST", f"{API_ROOT}/projects/{segment(project)}/deployments", body)

    def deployment(self, id: str) -> dict[str, Any]:
        return self._get(f"{API_ROOT}/deployments/{segment(id)}")

    def deployment_events(self, id: str, after: int = 0) -> Iterator[dict[str, Any]]:
        """Events with a number above `after`, live, until `done`. A broken stream goes on where it broke."""
        failures = 0
        while True:
            try:
                for event in self._lines(
                    f"{API_ROOT}/deployments/{segment(id)}/events", {"after": after}, read_timeout_s=EVENT_SILENCE_S
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
        return self._send("DELETE", f"{API_ROOT}/deployments/{segment(id)}")

    # Projects and versions

    def projects(self) -> list[dict[str, Any]]:
        return as_list(self._get(f"{API_ROOT}/projects"), "projects")

    def project(self, name: str) -> dict[str, Any]:
        """The project's status, with that of each function and the newest events."""
        return self._get(f"{API_ROOT}/projects/{segment(name)}")

    def config(self, name: str) -> dict[str, Any]:
        """The effective options of the version that answers, and the `apps` that its file declared. Raises NotFound."""
        return self._get(f"{API_ROOT}/projects/{segment(name)}/config")

    def delete_project(self, name: str, *, force: bool = False) -> dict[str, Any]:
        """Delete it, and wait until calls that run have ended; `force` cuts them off."""
        path = f"{API_ROOT}/projects/{segment(name)}"
        return self._send("DELETE", f"{path}?force=1" if force else path, timeout_s=_MAX_DRAIN_S)

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Newest first."""
        return as_list(self._get(f"{API_ROOT}/projects/{segment(name)}/versions"), "versions")

    def rollback(self, name: str, version: int | None = None) -> dict[str, Any]:
        """Route to `version`, or to the one before. Raises NotFound, Conflict."""
        body = {} if version is None else {"version": version}
        # The old version's replicas may have to start again before the route flips.
        return self._send(
            "POST", f"{API_ROOT}/projects/{segment(name)}/rollback", body, timeout_s=self.timeout_s + 300.0
        )

    def restart(self, name: str, function: str | None = None) -> dict[str, Any]:
        """Replace the replicas of one function or of all; their state after that. Raises NotFound, Conflict."""
        path = f"{API_ROOT}/projects/{segment(name)}/restart"
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
        path = f"{API_ROOT}/projects/{segment(project)}/functions/{segment(function)}/logs"
        # Heartbeats come several times a minute, so a longer silence means that the connection is lost.
        yield from self._lines(path, params, read_timeout_s=max(self.timeout_s, EVENT_SILENCE_S))

    # Keys and secrets

    def create_key(self, name: str, scopes: list[str]) -> dict[str, Any]:
        """A new key; its `key` is shown this once."""
        return self._send("POST", f"{API_ROOT}/keys", {"name": name, "scopes": list(scopes)})

    def keys(self) -> list[dict[str, Any]]:
        return as_list(self._get(f"{API_ROOT}/keys"), "keys")

    def revoke_key(self, id: str) -> dict[str, Any]:
        return self._send("DELETE", f"{API_ROOT}/keys/{segment(id)}")

    def put_secret(self, project: str, name: str, value: str) -> dict[str, Any]:
        """Replicas started from now on see it."""
        return self._send("PUT", f"{API_ROOT}/projects/{segment(project)}/secrets/{segment(name)}", {"value": value})

    def secrets(self, project: str) -> list[str]:
        """Names only: the platform does not give values back."""
        return [str(name) for name in as_list(self._get(f"{API_ROOT}/projects/{segment(project)}/secrets"), "secrets")]

    def delete_secret(self, project: str, name: str) -> dict[str, Any]:
        return self._send("DELETE", f"{API_ROOT}/projects/{segment(project)}/secrets/{segment(name)}")

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
        from clipper.item_stream import stream_of

        request = Request(
            method="POST",
            path=FunctionAddress.parse(path).url_path,
            content=body,
            headers={"Content-Type": content_type, "Accept": EVENT_STREAM},
        )
        with self._connection.open(request) as response:
            items = stream_of(response.status_code, response.headers)
            yield from items.begin()
            for piece in self._connection.pieces(response):
                yield from items.feed(piece)
                if items.ended:
                    return
        items.check_ended()

    def schema(self, path: str) -> dict[str, Any]:
        """The JSON Schema of "project/function[@version]"."""
        return self._get(f"{FunctionAddress.parse(path).url_path}/schema")


def _function(project: str, function: str) -> str:
    return f"{API_ROOT}/projects/{segment(project)}/functions/{segment(function)}"
