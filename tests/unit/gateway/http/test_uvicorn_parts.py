"""The installed uvicorn is one that the fast path was tested with."""

from __future__ import annotations

import hashlib
import inspect
import pkgutil
import tomllib
from pathlib import Path

import pytest
import uvicorn

from clipper_platform.gateway.http.uvicorn_parts import PRIVATE_PARTS, TESTED_SERIES

PYPROJECT = Path(__file__).parents[4] / "pyproject.toml"

WHAT_TO_DO = """
The fast path overrides private parts of uvicorn (gateway/http/uvicorn_parts.py lists them). To admit another release:
1. read the difference of uvicorn/protocols/http/httptools_impl.py and flow_control.py to the tested release, and take
   over what concerns gateway/http/connection.py, fast_path.py and cycle.py;
2. run tests/unit/gateway/http, tests/integration/test_http_conformance.py and tests/e2e/test_disconnects.py;
3. set the bounds in pyproject.toml, TESTED_SERIES, and the digests in this file.
"""

# The first 12 digits of the SHA-256 of the source.
DIGESTS = {
    "HttpToolsProtocol.__init__": "4f0899941034",
    "HttpToolsProtocol._start_asgi_task": "9c08c2571ae9",
    "HttpToolsProtocol.connection_lost": "c91a4c9bf2e2",
    "HttpToolsProtocol.data_received": "010a7ae59a5d",
    "HttpToolsProtocol.on_body": "dba9c32aeba3",
    "HttpToolsProtocol.on_header": "65d62c044f61",
    "HttpToolsProtocol.on_headers_complete": "1ea8589acfad",
    "HttpToolsProtocol.on_message_begin": "96d377fdc7c2",
    "HttpToolsProtocol.on_message_complete": "1fbad42dc31f",
    "HttpToolsProtocol.on_response_complete": "64e254f28e38",
    "HttpToolsProtocol.resume_writing": "7844bbaa8cce",
    "HttpToolsProtocol.timeout_keep_alive_handler": "8b53bf5f2e20",
    "HttpToolsProtocol._unset_keepalive_if_required": "00a6a4e47214",
    "HttpToolsProtocol.connection_made": "6efb565ff3d3",
    "HttpToolsProtocol.eof_received": "5652627579a0",
    "HttpToolsProtocol.on_url": "37be44e962b0",
    "HttpToolsProtocol.pause_writing": "17a8fd215d96",
    "HttpToolsProtocol.shutdown": "d7351fa33f00",
    "RequestResponseCycle": "e67d470d435d",
    "FlowControl": "126debcdaa89",
    "ServerState": "f2260fbf1015",
    "Server.capture_signals": "e1bbcd4770d1",
}


def digest(part: str) -> str:
    """Of the part's source; "missing" where there is no such part."""
    try:
        source = inspect.getsource(pkgutil.resolve_name(part))
    except AttributeError:
        return "missing"
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def test_the_installed_uvicorn_is_of_a_series_that_was_tested() -> None:
    series = ".".join(uvicorn.__version__.split(".")[:2])
    if series not in TESTED_SERIES:
        pytest.fail(f"uvicorn {uvicorn.__version__} is installed, {', '.join(TESTED_SERIES)} were tested.{WHAT_TO_DO}")


def test_the_private_parts_of_uvicorn_are_those_that_were_tested() -> None:
    found = {part.partition(":")[2]: digest(part) for part in PRIVATE_PARTS}
    changed = sorted(name for name in found.keys() | DIGESTS.keys() if found.get(name) != DIGESTS.get(name))
    if changed:
        pytest.fail(f"uvicorn {uvicorn.__version__} changed {', '.join(changed)}.{WHAT_TO_DO}")


def test_a_part_that_is_gone_is_named_and_not_an_error() -> None:
    assert digest("uvicorn.server:Server.no_such_method") == "missing"


def test_the_package_admits_the_tested_series_only() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    first, last = TESTED_SERIES[0], TESTED_SERIES[-1]
    after = f"{last.split('.')[0]}.{int(last.split('.')[1]) + 1}"
    assert f"uvicorn>={first},<{after}" in [line.partition(";")[0].strip() for line in extras["platform"]]
