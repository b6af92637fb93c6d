"""The model and the request that all servers are measured with."""

from __future__ import annotations

import json

__all__ = ["ANSWER", "BATCH_LIMIT", "BODY", "NUMBERS"]

BATCH_LIMIT = 32  # what the functions and apps here declare

NUMBERS = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5, 10.5]
BODY = json.dumps({"numbers": NUMBERS}, separators=(",", ":")).encode()
ANSWER = json.dumps(sum(NUMBERS)).encode()
