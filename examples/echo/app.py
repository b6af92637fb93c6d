"""The smallest project: plain functions, no requirements. Type hints are the schema."""

import logging
from typing import Any

import clipper

log = logging.getLogger(__name__)


@clipper.function()
def echo(value: Any) -> Any:
    """What came in goes out."""
    return value


@clipper.function()
def shout(text: str, times: int = 1) -> str:
    """Louder: `clip logs echo/shout` shows each line with the id of its request."""
    if not 1 <= times <= 100:
        raise ValueError("times must be from 1 to 100")
    print(f"shouting {len(text)} characters")
    log.info("%d times", times)
    return " ".join([text.upper() + "!"] * times)


@clipper.function()
async def reverse(data: bytes) -> bytes:
    """Bytes in, bytes out: send any body as application/octet-stream."""
    return data[::-1]
