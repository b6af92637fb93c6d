"""Endpoints as rows of a table, each a route and a part of `/openapi.json`; reading and checking of requests."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from clipper.contract.constants import Scope
from clipper.contract.media_types import JSON
from clipper_platform.errors import (
    InvalidRequest,
    MethodNotAllowed,
    PayloadTooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)
from clipper_platform.gateway.auth import Access
from clipper_platform.store.base import Key

__all__ = ["MAX_JSON_BYTES", "ApiRequest", "Endpoint", "Query", "Raw", "read_body", "routes"]

T = TypeVar("T")

MAX_JSON_BYTES: Final = 1024 * 1024

Raw = dict[str, Any]
"""A body that the handler validates itself, with better words than a schema has."""

_TRUE: Final = frozenset({"1", "true", "yes"})
_FALSE: Final = frozenset({"", "0", "false", "no"})


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter. `default` None: absent."""

    name: str
    kind: Literal["integer", "number", "boolean", "string"]
    description: str
    default: int | float | bool | str | None = None

    def parse(self, text: str | None) -> Any:
        """Raises InvalidRequest."""
        if text is None:
            return self.default
        if self.kind == "string":
            return text
        try:
            if self.kind == "boolean":
                if text.lower() not in _TRUE | _FALSE:
                    raise ValueError(text)
                return text.lower() in _TRUE
            number = int(text) if self.kind == "integer" else float(text)
            # Past 2^53 no store and no JSON reader agrees on what was meant.
            if not math.isfinite(number) or not 0 <= number <= 2**53:
                raise ValueError(text)
        except ValueError:
            what = {"integer": "a whole number, 0 or more", "number": "a number, 0 or more", "boolean": "0 or 1"}
            raise InvalidRequest(
                f"{self.name} = {text[:100]!r} is not allowed: it must be {what[self.kind]}", key=self.name
            ) from None
        return number


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """A request that is authenticated and whose parts are checked. `http`: the request as Starlette has it."""

    http: Request
    params: Mapping[str, str]
    query: Mapping[str, Any]
    body: Any
    key: Key | None

    @property
    def base_url(self) -> str:
        """The platform's address as this client writes it, without a slash at the end."""
        return str(self.http.base_url).rstrip("/")

    @property
    def caller(self) -> Key:
        """The key, at an endpoint that needs one."""
        if self.key is None:
            raise Unauthenticated("a key is needed")
        return self.key


Handler = Callable[[ApiRequest], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`scope`: what the key must allow; "any": any key; None: no key is needed.

    `body`: the type of the JSON body, or `Raw`, for which `body_schema` is what `/openapi.json` shows. `response`: the
    type of the JSON response; None where the handler returns a Response of the type `media_type`.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    _: KW_ONLY
    scope: Scope | Literal["any"] | None = "deploy"
    body: type[Any] | None = None
    body_schema: type[Any] | None = None
    body_media_type: str = JSON
    response: type[Any] | None = None
    media_type: str = JSON
    status: int = 200
    other_statuses: Mapping[int, str] = field(default_factory=dict)  # status -> what it means
    query: tuple[Query, ...] = ()
    streams: bool = False

    async def answer(self, http: Request, access: Access) -> Response:
        """Authenticate, check, handle, encode."""
        authorization = http.headers.get("authorization")
        key: Key | None = None
        if self.scope == "any":
            key = access.identify(authorization)
        elif self.scope is not None:
            key = access.require(authorization, self.scope)
        request = ApiRequest(
            http=http,
            params=http.path_params,
            query={q.name: q.parse(http.query_params.get(q.name)) for q in self.query},
            body=None if self.body is None else await read_body(http, self.body),
            key=key,
        )
        response = await self.handler(request)
        if isinstance(response, Response):
            return response
        return Response(msgspec.json.encode(response), self.status, media_type=JSON)


async def read_body(request: Request, type: type[T]) -> T:
    """The JSON body as `type`. An empty body counts as `{}`.

    Raises InvalidRequest, PayloadTooLarge, UnsupportedMediaType.
    """
    content_type = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if content_type != JSON and not content_type.endswith("+json"):
        raise UnsupportedMediaType(f"the body must be application/json, not {content_type[:100]!r}")
    data = await _limited(request, MAX_JSON_BYTES)
    try:
        return msgspec.json.decode(data or b"{}", type=type)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the body does not fit: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


async def _limited(request: Request, limit: int) -> bytes:
    too_large = PayloadTooLarge(f"the body is over the limit of {limit} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def routes(endpoints: Iterable[Endpoint], access: Access) -> list[Route]:
    """One route per path, which chooses by method: so that a 405 names all methods of an address."""
    by_path: defaultdict[str, list[Endpoint]] = defaultdict(list)
    for endpoint in endpoints:
        by_path[endpoint.path].append(endpoint)
    return [_route(path, found, access) for path, found in by_path.items()]


def _route(path: str, endpoints: Sequence[Endpoint], access: Access) -> Route:
    by_method = {endpoint.method: endpoint for endpoint in endpoints}

    async def choose(request: Request) -> Response:
        endpoint = by_method.get(request.method)
        if endpoint is None and request.method == "HEAD" and not by_method["GET"].streams:
            endpoint = by_method["GET"]
        if endpoint is None:
            raise MethodNotAllowed("this address has other methods", allow=sorted(by_method))
        return await endpoint.answer(request, access)

    return Route(path, choose, methods=list(by_method))
