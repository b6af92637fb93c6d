"""The model on mosec: one worker, batches of at most 32, the shortest wait that it knows (a millisecond).

JSON by msgspec instead of the standard library, as everyone else here has it.

    python mosec_app.py --port PORT --address 127.0.0.1
"""

import msgspec
from mosec import Server, Worker


class Body(msgspec.Struct):
    numbers: list[float]


decode = msgspec.json.Decoder(Body).decode


class Total(Worker):
    def deserialize(self, data: bytes) -> Body:
        return decode(data)

    def serialize(self, data: float) -> bytes:
        return msgspec.json.encode(data)

    def forward(self, data: list[Body]) -> list[float]:
        return [sum(body.numbers) for body in data]


if __name__ == "__main__":
    server = Server()
    # Its own default waits 10 ms for a batch to fill.
    server.append_worker(Total, num=1, max_batch_size=32, max_wait_time=1)
    server.run()
