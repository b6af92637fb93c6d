"""Calls of the control API about applications, as `ControlClient` has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from clipper.address import FunctionAddress
from clipper.contract.constants import API_ROOT
from clipper.control_requests import ControlRequests, as_list, segment

__all__ = ["ApplicationCalls"]

# The platform writes pairs as it reads them; a longer silence means that the connection is lost.
_EXPORT_SILENCE_S: Final = 60.0


class ApplicationCalls(ControlRequests):
    """Applications: what clients query, linked to functions. `spec` has the keys of `[apps.NAME]`."""

    def apps(self) -> list[dict[str, Any]]:
        """Every application by its name."""
        return as_list(self._get(f"{API_ROOT}/apps"), "applications")

    def create_app(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """A new application. Raises Conflict where there is one of its name, InvalidSpec."""
        return self._send("POST", f"{API_ROOT}/apps", spec)

    def app(self, name: str) -> dict[str, Any]:
        """Its spec, and how each linked function does. Raises NotFound."""
        return self._get(_app(name))

    def put_app(self, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Create it or make it what `spec` says; `changed` tells whether that was something new."""
        return self._send("PUT", _app(name), spec)

    def delete_app(self, name: str) -> dict[str, Any]:
        """Delete it with its feedback; the functions stay. Raises NotFound."""
        return self._send("DELETE", _app(name))

    def link_app(
        self, name: str, function: FunctionAddress, *, parameter: str | None = None, weight: float | None = None
    ) -> dict[str, Any]:
        """Link a function, at its current version unless the address names one. Raises NotFound, Conflict."""
        body = {"parameter": parameter, "weight": weight}
        given = {key: value for key, value in body.items() if value is not None}
        return self._send("PUT", _link(name, function), given, params=_version(function))

    def unlink_app(self, name: str, function: FunctionAddress) -> dict[str, Any]:
        """Remove a link. Raises NotFound where there is none."""
        return self._send("DELETE", _link(name, function), params=_version(function))

    def explain_app(self, name: str, context: str | None = None) -> dict[str, Any]:
        """What the application's policy would choose now, and why; for a context if one is given."""
        return self._get(f"{_app(name)}/explain", {} if context is None else {"context": context})

    def query_app(self, name: str, body: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        """One query: `/{name}/predict`. Raises NotFound, InvalidRequest with the cause."""
        return self._send("POST", f"/{segment(name)}/predict", body, timeout_s=timeout_s)

    def label_app(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Feedback: `/{name}/update`. Raises NotFound for an unknown query."""
        return self._send("POST", f"/{segment(name)}/update", body)

    def app_feedback(self, name: str, since: float | None = None) -> Iterator[dict[str, Any]]:
        """Predictions with the labels that came for them, oldest first; those after Unix time `since`."""
        params: dict[str, str | int | float] = {} if since is None else {"since": since}
        silence_s = max(self.timeout_s, _EXPORT_SILENCE_S)
        yield from self._lines(f"{_app(name)}/feedback", params, read_timeout_s=silence_s)


def _app(name: str) -> str:
    return f"{API_ROOT}/apps/{segment(name)}"


def _link(name: str, function: FunctionAddress) -> str:
    return f"{_app(name)}/links/{segment(function.project)}/{segment(function.function)}"


def _version(function: FunctionAddress) -> dict[str, str | int | float]:
    return {} if function.version is None else {"version": function.version}
