"""The model on BentoML: one worker, batches of at most 32. Its batched routes take a list of inputs even for one.

bentoml serve bentoml_app:Total -p PORT --working-dir apps
"""

import bentoml


@bentoml.service(workers=1, traffic={"timeout": 30, "max_concurrency": 1024})
class Total:
    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=10_000)
    def predict(self, numbers: list[list[float]]) -> list[float]:
        return [sum(each) for each in numbers]
