"""A bare ASGI application on uvicorn with the model inline: no schema, no batches, no deadline, no metrics.

`POST /predict` sums; `POST /echo` sends the body back. `json` reads and writes with the standard library, as most
people would; `msgspec` is the floor of what can be had.

    python asgi_app.py PORT json|msgspec
"""

import json
import sys
from typing import Any

import msgspec
import uvicorn


class Body(msgspec.Struct):
    numbers: list[float]


decode = msgspec.json.Decoder(Body).decode
plain = sys.argv[2] == "json"


def total(body: bytes) -> bytes:
    if plain:
        return json.dumps(sum(json.loads(body)["numbers"])).encode()
    return msgspec.json.encode(sum(decode(body).numbers))


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts = [body]
        while message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
        body = b"".join(parts)
    answer = body if scope["path"] == "/echo" else total(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
    )
