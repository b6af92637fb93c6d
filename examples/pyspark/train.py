"""Trains the model of this example: the species of an iris, by Spark's logistic regression."""

from pathlib import Path

from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import SparkSession
from sklearn.datasets import load_iris

HERE = Path(__file__).parent
COLUMNS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


def main() -> None:
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    iris = load_iris()
    rows = [(*map(float, row), float(label)) for row, label in zip(iris.data, iris.target, strict=True)]
    train, test = spark.createDataFrame(rows, [*COLUMNS, "label"]).randomSplit([0.75, 0.25], seed=0)
    assembler = VectorAssembler(inputCols=COLUMNS, outputCol="features")
    model = Pipeline(stages=[assembler, LogisticRegression(regParam=0.01)]).fit(train)
    model.write().overwrite().save(str(HERE / "iris"))
    right = model.transform(test).where("prediction = label").count() / test.count()
    print(f"accuracy on flowers that it has not seen: {right:.3f}")
    spark.stop()


if __name__ == "__main__":
    main()
