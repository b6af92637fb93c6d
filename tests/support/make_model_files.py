"""Wrote model_files/: small models by the libraries themselves, which the tests read without these libraries.

Needs scikit-learn, pandas, joblib, lz4, xgboost-cpu, lightgbm, torch, transformers, onnx, mlflow-skinny:
`python tests/support/make_model_files.py`.
"""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import mlflow.sklearn
import numpy as np
import onnx
import pandas as pd
import torch
import xgboost
from mlflow.models import infer_signature
from onnx import TensorProto, helper
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

FILES = Path(__file__).parent / "model_files"
IRIS = load_iris()
FRAME = load_iris(as_frame=True).data


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch hostile",)


def estimators() -> None:
    logistic = LogisticRegression(max_iter=500).fit(IRIS.data, IRIS.target)
    joblib.dump(logistic, FILES / "iris.joblib")
    joblib.dump(LogisticRegression(max_iter=500).fit(FRAME, IRIS.target), FILES / "table.joblib")
    names = IRIS.target_names[IRIS.target]
    joblib.dump(LogisticRegression(max_iter=500).fit(IRIS.data, names), FILES / "named.joblib")
    for protocol in (0, 2, 4, 5):
        (FILES / f"protocol{protocol}.pkl").write_bytes(pickle.dumps(logistic, protocol=protocol))
    for compression in ("zlib", "gzip", "bz2", "lzma", "xz", "lz4"):
        joblib.dump(logistic, FILES / f"{compression}.joblib", compress=(compression, 3))
    people = pd.DataFrame({"age": [20, 30, 40, 50], "city": ["Oslo", "Bergen", "Oslo", "Bodø"]})
    columns = ColumnTransformer([("n", StandardScaler(), ["age"]), ("c", OneHotEncoder(), ["city"])])
    joblib.dump(make_pipeline(columns, LogisticRegression()).fit(people, [0, 1, 0, 1]), FILES / "mixed.joblib")
    films = ["a good film", "a bad film", "great", "awful"]
    text = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(films, ["good", "bad", "good", "bad"])
    joblib.dump(text, FILES / "text.joblib")
    search = GridSearchCV(LogisticRegression(max_iter=300), {"C": [1, 2]}, cv=2).fit(IRIS.data, IRIS.target)
    joblib.dump(search, FILES / "search.joblib")
    joblib.dump(KMeans(3, n_init=1).fit(IRIS.data), FILES / "kmeans.joblib")
    joblib.dump(PCA(2).fit(IRIS.data), FILES / "pca.joblib")
    joblib.dump(LinearRegression().fit(IRIS.data, np.c_[IRIS.target, IRIS.target]), FILES / "several.joblib")
    joblib.dump(DBSCAN().fit(IRIS.data), FILES / "dbscan.joblib")
    joblib.dump(LogisticRegression(), FILES / "unfitted.joblib")
    joblib.dump({"model": logistic, "version": 3}, FILES / "dict.joblib")


def families() -> None:
    """Estimators whose columns, categories or outputs are kept elsewhere than in most."""
    both = [("a", LogisticRegression(max_iter=500)), ("b", DecisionTreeClassifier(max_depth=2))]
    joblib.dump(VotingClassifier(both).fit(IRIS.data, IRIS.target), FILES / "voting.joblib")
    joblib.dump(OneHotEncoder().fit([["a", 7], ["b", 8]]), FILES / "sparse.joblib")
    codes = make_pipeline(OneHotEncoder(), LogisticRegression()).fit([[7, 5], [8, 6]], [False, True])
    joblib.dump(codes, FILES / "codes.joblib")
    logarithm = make_pipeline(FunctionTransformer(np.log), LinearRegression()).fit(IRIS.data, IRIS.target)
    joblib.dump(logarithm, FILES / "logarithm.joblib")


def hostile() -> None:
    (FILES / "hostile.pkl").write_bytes(pickle.dumps(Hostile()))
    logistic = LogisticRegression(max_iter=500).fit(IRIS.data, IRIS.target)
    logistic.extra = Hostile()
    (FILES / "hostile_inside.pkl").write_bytes(pickle.dumps(logistic))


def trees() -> None:
    classifier = xgboost.XGBClassifier(n_estimators=2, max_depth=2).fit(FRAME, IRIS.target)
    classifier.save_model(FILES / "classifier.ubj")
    classifier.save_model(FILES / "classifier.json")
    joblib.dump(classifier, FILES / "xgboost.joblib")
    options = {"objective": "multi:softprob", "num_class": 3, "max_depth": 2}
    booster = xgboost.train(options, xgboost.DMatrix(IRIS.data, IRIS.target), 2)
    booster.save_model(FILES / "booster.json")
    leaves = lightgbm.LGBMClassifier(n_estimators=2, num_leaves=3, verbose=-1).fit(IRIS.data, IRIS.target)
    leaves.booster_.save_model(FILES / "booster.txt")
    joblib.dump(leaves, FILES / "lightgbm.joblib", compress=3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.ReLU())

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layers(rows)


class Pair(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a + b, a - b


def without_paths(path: Path) -> None:
    """Leave out the positions in source files, which are paths of this machine."""
    with zipfile.ZipFile(path) as archive:
        members = [(one, archive.read(one)) for one in archive.infolist() if not one.filename.endswith(".debug_pkl")]
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in members:
            archive.writestr(info, data)


def torches() -> None:
    torch.manual_seed(0)
    net = Net().eval()
    for name, module in (("script.pt", net), ("pair.pt", Pair())):
        torch.jit.script(module).save(FILES / name)
        without_paths(FILES / name)
    torch.save(net.state_dict(), FILES / "weights.pth")
    torch.save(nn.Sequential(nn.Linear(2, 1)), FILES / "pickled.pt")
    for name, shapes in (("one.pt2", None), ("pair.pt2", ({0: torch.export.Dim("n")},) * 2)):
        sample = (torch.zeros(1, 4),) if shapes is None else (torch.zeros(2, 3), torch.zeros(2, 3))
        program = torch.export.export(net if shapes is None else Pair(), sample, dynamic_shapes=shapes)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        torch.export.save(program, FILES / name)


def sentiment() -> None:
    """A BERT of one layer that tells kind words from unkind ones."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "great", "fine", "bad", "awful", "poor"]
    words += ["the", "film", "was", "very", "a"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    labels = {0: "unkind", 1: "kind"}
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
        id2label=labels, label2id={word: place for place, word in labels.items()},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    ways = ("the film was {}", "the film was very {}", "a {} film", "very {}", "{}")
    texts = [way.format(word) for way in ways for word in words[5:11]]
    wanted = torch.tensor([int(not {"good", "great", "fine"}.isdisjoint(text.split())) for text in texts])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        model(**fast(texts, return_tensors="pt", padding=True), labels=wanted).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(FILES / "sentiment")
    fast.save_pretrained(FILES / "sentiment")


def tracked() -> None:
    """A directory of MLflow."""
    model = LogisticRegression(max_iter=500).fit(FRAME, IRIS.target)
    signature = infer_signature(FRAME, model.predict(FRAME))
    directory = FILES / "tracked"
    mlflow.sklearn.save_model(model, directory, signature=signature, serialization_format="cloudpickle")


def graphs() -> None:
    def value(name: str, kind: int, *shape: int | str | None) -> Any:
        return helper.make_tensor_value_info(name, kind, list(shape))

    def save(name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> None:
        graph = helper.make_graph(nodes, "graph", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model)
        (FILES / name).write_bytes(model.SerializeToString())

    number, text = TensorProto.FLOAT, TensorProto.STRING
    add = [helper.make_node("Add", ["left", "right"], ["sum"])]
    save(
        "add.onnx", add, [value("left", number, "n", 3), value("right", number, "n", 3)], [value("sum", number, "n", 3)]
    )
    save("one.onnx", add, [value("left", number, 1, 3), value("right", number, 1, 3)], [value("sum", number, 1, 3)])
    save("whole.onnx", add, [value("left", number, 2, 3), value("right", number, 2, 3)], [value("sum", number, 2, 3)])
    twice = [helper.make_node("Add", ["input.1", "input.1"], ["class"])]
    save("any.onnx", twice, [value("input.1", number, "n", "words")], [value("class", number, "n", "words")])
    same = [helper.make_node("Identity", ["words"], ["same"])]
    save("text.onnx", same, [value("words", text, "n")], [value("same", text, "n")])


def main() -> None:
    warnings.simplefilter("ignore")
    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir()
    for write in (estimators, families, hostile, trees, torches, sentiment, tracked, graphs):
        write()


if __name__ == "__main__":
    main()
