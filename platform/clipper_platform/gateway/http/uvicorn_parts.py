"""The parts of uvicorn that are no public interface, which the gateway overrides, calls or replaces.

They may change with any release. So pyproject.toml admits only the releases of `TESTED_SERIES`, and
`tests/unit/gateway/http/test_uvicorn_parts.py` fails when one of `PRIVATE_PARTS` differs from what was tested.
"""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

__all__ = ["PRIVATE_PARTS", "STATUS_LINE", "TESTED_SERIES", "HttpToolsProtocol", "ServerState"]

TESTED_SERIES: Final = ("0.53", "0.54")

_PROTOCOL: Final = "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol."
_OVERRIDDEN: Final = (
    *("__init__", "_start_asgi_task", "connection_lost", "data_received", "eof_received", "on_body", "on_header"),
    *("on_headers_complete", "on_message_begin", "on_message_complete", "on_response_complete", "pause_writing"),
    *("resume_writing", "timeout_keep_alive_handler"),
)
# Called by our methods, or by uvicorn with the state that our methods keep.
_INHERITED: Final = (*("_unset_keepalive_if_required", "connection_made", "on_url", "shutdown"),)

PRIVATE_PARTS: Final = (
    *(_PROTOCOL + name for name in (*_OVERRIDDEN, *_INHERITED)),
    # `FastCycle` stands in its place: `disconnected`, `keep_alive`, `message_event`, `more_body`, `response_complete`.
    # `Connection` also reads `chunked_encoding` and `response_started`, and replaces `transport`.
    "uvicorn.protocols.http.httptools_impl:RequestResponseCycle",
    "uvicorn.protocols.http.flow_control:FlowControl",
    "uvicorn.server:ServerState",
    "uvicorn.server:Server.capture_signals",  # overridden in `gateway.http.http_server.Server`
)
"""As `pkgutil.resolve_name` takes them."""
