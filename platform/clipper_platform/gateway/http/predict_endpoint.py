"""`POST /{app}/predict` and `/{app}/update` over ASGI: what the fast path does not take, and all feedback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from clipper_platform.applications.refusals import BadQuery
from clipper_platform.applications.requests import Request, begin_request
from clipper_platform.errors import ClipperError
from clipper_platform.gateway.http.answer import Answer, send_answer
from clipper_platform.gateway.http.content_coding import unpacked
from clipper_platform.gateway.http.predict_service import PredictService, json_answer, refusal
from clipper_platform.gateway.http.request_body import read_request_body
from clipper_platform.gateway.http.request_head import RequestHead, read_head
from clipper_platform.gateway.http.request_id import new_request_id

__all__ = ["PredictEndpoint", "UpdateEndpoint", "application_routes"]


class _Endpoint:
    def __init__(self, service: PredictService, *, body_timeout_s: float) -> None:
        self._service = service
        self._body_timeout_s = body_timeout_s

    async def _body(self, head: RequestHead, scope: Scope, receive: Receive) -> bytes:
        limit = self._service.max_body_bytes
        body = await read_request_body(scope, receive, limit_bytes=limit, timeout_s=self._body_timeout_s)
        return await unpacked(body, head.encoding, limit) if head.encoding else body


class PredictEndpoint(_Endpoint):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, arrived = self._service, self._service.clock.monotonic()
        head = read_head(scope["headers"])
        live = service.application(scope["path_params"]["app"], head)
        body = await self._body(head, scope, receive)
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        id = scope.get("state", {}).get("request_id") or new_request_id()  # the middleware sets it

        def finish(body: bytes, reasons: Sequence[str], error: ClipperError | None) -> None:
            taken_s = service.clock.monotonic() - arrived
            done.set_result(json_answer(body, taken_s, reasons) if error is None else refusal(error, id, taken_s))

        try:
            request = begin_request(live, body, id, arrived, service.timeout_s(head), finish)
        except BadQuery as error:
            await send_answer(send, refusal(error, id, service.clock.monotonic() - arrived))
            return
        if await _answered(done, request, receive):
            await send_answer(send, done.result())


async def _answered(done: asyncio.Future[Answer], request: Request, receive: Receive) -> bool:
    """True once the answer exists; False when the client disconnected first, which cancels the request."""
    gone = asyncio.ensure_future(receive())
    waiting: set[asyncio.Future[Any]] = {done, gone}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            request.cancel()
        return done.done()
    except asyncio.CancelledError:
        request.cancel()
        raise
    finally:
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone


class UpdateEndpoint(_Endpoint):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, arrived = self._service, self._service.clock.monotonic()
        head = read_head(scope["headers"])
        name = service.application(scope["path_params"]["app"], head).name
        body = await self._body(head, scope, receive)
        try:
            taken = await service.applications.update(name, body)
        except BadQuery as error:
            id = scope.get("state", {}).get("request_id", "")
            await send_answer(send, refusal(error, id, service.clock.monotonic() - arrived))
            return
        answer = msgspec.json.encode({"query_id": taken.query_id, "accepted": True, "duplicate": taken.duplicate})
        await send_answer(send, json_answer(answer, service.clock.monotonic() - arrived))


def application_routes(service: PredictService, *, body_timeout_s: float) -> list[BaseRoute]:
    """With and without a slash at the end, as Clipper's clients send both."""
    predict = PredictEndpoint(service, body_timeout_s=body_timeout_s)
    update = UpdateEndpoint(service, body_timeout_s=body_timeout_s)
    return [
        Route(f"/{{app}}/{name}{slash}", endpoint, methods=["POST"])
        for name, endpoint in (("predict", predict), ("update", update))
        for slash in ("", "/")
    ]
