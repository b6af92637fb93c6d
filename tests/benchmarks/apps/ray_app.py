"""The model on Ray Serve: one replica, batches of at most 32 without a wait.

python ray_app.py PORT
"""

import signal
import sys

import msgspec
import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=1024)
class Total:
    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.0)
    async def total(self, rows: list[list[float]]) -> list[float]:
        return [sum(numbers) for numbers in rows]

    async def __call__(self, request: Request) -> float:
        return await self.total(msgspec.json.decode(await request.body())["numbers"])


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Total.bind(), route_prefix="/predict")
    signal.pause()
