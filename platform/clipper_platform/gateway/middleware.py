"""The outermost layer around every route: request id, host and origin, errors, access log. Plain ASGI."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipper_platform.clock import Clock
from clipper_platform.errors import ClientClosed, Forbidden
from clipper_platform.gateway.errors import render
from clipper_platform.gateway.http.request_id import request_id
from clipper_platform.gateway.origin_policy import OriginPolicy

__all__ = ["RequestMiddleware"]

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("clipper_platform.access")

# Probes come every few seconds, and invocations thousands of times a second: they are logged only when the platform
# fails. Metrics count them all.
_QUIET_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_MAX_LOGGED_PATH: Final = 500


class RequestMiddleware:
    """Puts `request_id` into the scope's state; handlers find it as `request.state.request_id`."""

    def __init__(self, app: ASGIApp, *, origin_policy: OriginPolicy, clock: Clock) -> None:
        self._app = app
        self._origin_policy = origin_policy
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Exchange(self._app, self._origin_policy, self._clock, scope, send).run(receive)


class _Exchange:
    """One request and its answer."""

    def __init__(self, app: ASGIApp, origin_policy: OriginPolicy, clock: Clock, scope: Scope, send: Send) -> None:
        self._app = app
        self._origin_policy = origin_policy
        self._clock = clock
        self._scope = scope
        self._send = send
        self._headers = Headers(scope=scope)
        self._id = request_id(self._headers.get("x-request-id", ""), self._headers.get("traceparent", ""))
        self._extra: list[tuple[bytes, bytes]] = [(b"x-request-id", self._id.encode())]
        self._status = 0  # 0: no answer yet
        self._bytes = 0
        self._complete = False
        self._began = clock.monotonic()

    async def run(self, receive: Receive) -> None:
        self._scope.setdefault("state", {})["request_id"] = self._id
        try:
            if not await self._answer_preflight():
                await self._app(self._scope, receive, self._sender)
        except Exception as error:  # noqa: BLE001 - the one place that answers errors; `render` logs unknown ones
            await self._answer_error(error)
        except asyncio.CancelledError:
            self._status = self._status or ClientClosed.status
            raise
        finally:
            self._log(self._clock.monotonic() - self._began)

    async def _answer_preflight(self) -> bool:
        """Check host and origin; True if the request is a preflight, which is answered here. Raises Forbidden."""
        hosts = self._headers.getlist("host")
        if len(hosts) > 1:
            raise Forbidden("more than one Host header")
        host = hosts[0] if hosts else None
        self._origin_policy.check_host(host)
        origin = self._headers.get("origin")
        if self._origin_policy.check_origin(origin, self._headers.get("sec-fetch-site"), host) and origin is not None:
            self._extra += self._origin_policy.cors_headers(origin)
            if self._scope["method"] == "OPTIONS" and "access-control-request-method" in self._headers:
                private = "access-control-request-private-network" in self._headers
                headers = self._origin_policy.preflight_headers(private)
                await self._sender({"type": "http.response.start", "status": 204, "headers": headers})
                await self._sender({"type": "http.response.body", "body": b""})
                return True
        return False

    async def _sender(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = [*message.get("headers", ()), *self._extra]
            if all(name != b"server-timing" for name, _ in headers):
                taken_ms = (self._clock.monotonic() - self._began) * 1000
                headers.append((b"server-timing", b"total;dur=%.3f" % taken_ms))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self._bytes += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
        await self._send(message)

    async def _answer_error(self, error: Exception) -> None:
        status, headers, body = render(error, self._id)
        if self._status:
            # Part of the answer is sent and must not look complete: after an exception the server disconnects.
            if not self._complete:
                raise error
            return
        if status == ClientClosed.status:
            self._status = status
            return
        if self._scope["method"] == "HEAD":
            body = b""
        await self._sender({"type": "http.response.start", "status": status, "headers": headers})
        await self._sender({"type": "http.response.body", "body": body})

    def _log(self, seconds: float) -> None:
        path = self._scope["path"]
        quiet = path in _QUIET_PATHS or path.startswith("/fn/") or path.rstrip("/").endswith(("/predict", "/update"))
        level = logging.DEBUG if quiet and self._status < 500 else logging.INFO
        if not access_logger.isEnabledFor(level):
            return
        client = self._scope.get("client")
        access_logger.log(
            level,
            "%s %s %d",
            self._scope["method"],
            path[:_MAX_LOGGED_PATH],
            self._status,
            extra={
                "request_id": self._id,
                "duration_s": round(seconds, 6),
                "bytes": self._bytes,
                "client": client[0] if client else None,
            },
        )
