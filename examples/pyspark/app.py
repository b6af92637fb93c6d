"""A pipeline of Spark ML: a batch becomes one DataFrame, which a Spark of this replica's own transforms."""

from pathlib import Path

import clipper
from msgspec import Struct
from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession

HERE = Path(__file__).parent


class Flower(Struct):
    sepal_length: float
    sepal_width: float
    petal_length: float
    petal_width: float


# Spark plans each batch anew, which takes longer than to run it: large batches pay.
@clipper.function(name="species", max_batch_size=1024)
class Species:
    """The species of an iris: 0 is setosa, 1 is versicolor, 2 is virginica."""

    def __init__(self) -> None:
        settings = {
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.memory": "512m",
            "spark.sql.shuffle.partitions": "1",
            "spark.default.parallelism": "1",
        }
        self.spark = SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()
        self.model = PipelineModel.load(str(HERE / "iris"))

    def __call__(self, flower: list[Flower]) -> list[int]:
        columns = Flower.__struct_fields__
        rows = [tuple(getattr(one, name) for name in columns) for one in flower]
        # One partition keeps the rows in their order.
        frame = self.spark.createDataFrame(rows, columns).coalesce(1)
        return [int(row.prediction) for row in self.model.transform(frame).select("prediction").collect()]

    def close(self) -> None:
        self.spark.stop()
