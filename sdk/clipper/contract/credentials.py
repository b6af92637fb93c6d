"""Credentials in addresses: taken out of all that is shown, logged or compared."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["mask"]

# `git@` is no secret: it is the user of every address of a Git server by SSH.
_CREDENTIALS: Final = re.compile(r"(?<=://)(?!git@)[^/?#\s@]*(?:@[^/?#\s@]*)*@")
_SECRET_PARAMETERS: Final = re.compile(
    r"(?i)([?&][\w.-]*(?:token|key|sig|signature|secret|password|credential)[\w.-]*=)[^&#\s\"']+"
)


def mask(text: str) -> str:
    """`text` with the credentials of each address in it replaced.

    >>> mask("--index-url https://me:token@pypi.example/simple")
    '--index-url https://****@pypi.example/simple'
    """
    return _SECRET_PARAMETERS.sub(r"\1****", _CREDENTIALS.sub("****@", text))
