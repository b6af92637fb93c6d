"""The model on LitServe: one worker, one API server, batches of at most 32 without a wait, its faster queue.

python litserve_app.py PORT
"""

import sys
from typing import Any

import litserve


class Total(litserve.LitAPI):
    def setup(self, device: str) -> None:
        """Nothing to load."""

    def decode_request(self, request: dict[str, Any]) -> list[float]:
        return request["numbers"]

    def predict(self, x: list[list[float]]) -> list[float]:
        return [sum(numbers) for numbers in x]

    def batch(self, inputs: list[list[float]]) -> list[list[float]]:
        return list(inputs)

    def unbatch(self, output: list[float]) -> list[float]:
        return output

    def encode_response(self, output: float) -> float:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Total(max_batch_size=32, batch_timeout=0.0),
        accelerator="cpu",
        devices=1,
        workers_per_device=1,
        fast_queue=True,
    )
    port = int(sys.argv[1])
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="error")
