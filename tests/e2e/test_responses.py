"""Answers that functions write themselves, and what travels as text, files and images, over HTTP and by the SDK."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from backports import zstd
from PIL import Image

import clipper
from clipper import errors
from clipper.client import Client
from tests.e2e.conftest import Deploy
from tests.support.platform import PlatformProcess

pytestmark = pytest.mark.e2e

APP = """
import time
from typing import BinaryIO

import clipper
from PIL import Image

@clipper.function
def page(name: str = "x", status: int = 200):
    return clipper.Response(f"<h1>{name}</h1>", media_type="text/html", status=status, headers={"X-Thing": "1"})

@clipper.function(max_batch_size=8, batch_wait_timeout_s=0.05)
async def lookup(name: list[str]):
    return [clipper.Response({"unknown": n}, status=404) if n == "bad" else n for n in name]

@clipper.function(cache_ttl_s=60)
def stamp(status: int = 200):
    return clipper.Response(str(time.time_ns()), status=status)

@clipper.function
def forge(header: str, value: str = "x"):
    return clipper.Response("x", headers={header: value})

@clipper.function
def rows(count: int, fail: bool = False):
    yield clipper.Response(media_type="text/csv", headers={"Content-Disposition": "attachment"})
    for n in range(count):
        yield f"{n}\\n"
    if fail:
        raise ValueError("half way")

@clipper.function
def shout(text: str) -> str:
    return text.upper()

@clipper.function
def words(text: str):
    yield from text.split()

@clipper.function
def thumbnail(image: Image.Image, size: int = 4) -> Image.Image:
    return image.resize((size, size))

@clipper.function
def measure(file: BinaryIO, label: str = "") -> dict:
    return {"bytes": len(file.read()), "label": label}

@clipper.function
def numbers(count: int) -> list[int]:
    return list(range(count))
"""


@pytest.fixture(scope="module")
def project(deploy_once: Deploy) -> str:
    return deploy_once(APP, '[environment]\nrequirements = ["pillow>=11"]\n')


@pytest.fixture
def web(platform: PlatformProcess, project: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{platform.url}/fn/{project}/", timeout=30) as client:
        yield client


@pytest.fixture
def function(platform: PlatformProcess, project: str) -> Any:
    client = Client(platform.url)

    def named(name: str) -> Any:
        return clipper.Function.from_name(f"{project}/{name}", client=client)

    yield named
    client.close()


def test_a_function_writes_status_type_and_headers_of_its_answer(web: httpx.Client) -> None:
    for status in (200, 201, 404, 503):
        answer = web.post("page", json={"name": "ann", "status": status})
        assert (answer.status_code, answer.text) == (status, "<h1>ann</h1>")
        assert (answer.headers["content-type"], answer.headers["x-thing"]) == ("text/html; charset=utf-8", "1")
    good, bad = web.post("lookup", json={"name": "a"}), web.post("lookup", json={"name": "bad"})
    assert (good.status_code, good.json(), bad.status_code, bad.json()) == (200, "a", 404, {"unknown": "bad"})


def test_a_header_that_is_not_the_functions_is_its_error_and_names_the_reason(web: httpx.Client) -> None:
    for header, value in (("Set-Cookie", "a=b"), ("Content-Length", "9"), ("X", "a\r\nb: c"), ("X-Clip-Version", "9")):
        answer = web.post("forge", json={"header": header, "value": value})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "function_error")
        assert header in answer.json()["error"]["message"]


def test_only_a_response_that_is_no_error_is_cached(web: httpx.Client) -> None:
    def ask(status: int) -> tuple[str, str]:
        answer = web.post("stamp", json={"status": status})
        assert answer.status_code == status
        return answer.text, answer.headers["cache-status"].partition("; ")[2]

    first, second = ask(201), ask(201)
    assert (first[0], first[1], second[1]) == (second[0], "fwd=miss; stored", "hit")
    first, second = ask(500), ask(500)
    assert (first[0] == second[0], first[1], second[1]) == (False, "fwd=miss", "fwd=miss")


def test_the_sdk_gives_the_response_back_whatever_its_status_is(function: Any) -> None:
    response = function("page").remote(name="ann", status=503)
    assert response == clipper.Response(
        "<h1>ann</h1>", media_type="text/html; charset=utf-8", status=503, headers={"x-thing": "1"}
    )
    assert function("lookup").remote("bad").body == {"unknown": "bad"}
    assert function("lookup").remote("good") == "good"
    with pytest.raises(errors.ClipperError):
        function("nothing").remote()


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream", "application/msgpack"])
def test_a_generator_that_begins_with_a_response_writes_the_answer_itself(web: httpx.Client, accept: str) -> None:
    answer = web.post("rows", json={"count": 3}, headers={"accept": accept})
    assert (answer.status_code, answer.text) == (200, "0\n1\n2\n")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == "attachment"
    with pytest.raises(httpx.RemoteProtocolError):  # what is incomplete does not look complete
        web.post("rows", json={"count": 3, "fail": True}, headers={"accept": accept})


def test_the_sdk_iterates_over_what_a_generator_writes(function: Any) -> None:
    head, *pieces = function("rows").remote(count=3)
    assert (head.status, "".join(pieces)) == (200, "0\n1\n2\n")
    assert head.headers == {"content-disposition": "attachment", "cache-control": "no-store"}
    with pytest.raises(errors.ConnectionLost):
        list(function("rows").remote(count=3, fail=True))


def test_text_goes_in_and_comes_out_as_it_is(web: httpx.Client) -> None:
    plain = {"content-type": "text/plain; charset=utf-8", "accept": "text/plain"}
    answer = web.post("shout", content="grüße".encode(), headers=plain)
    assert (answer.text, answer.headers["content-type"]) == ("GRÜSSE", "text/plain; charset=utf-8")
    assert web.post("words", content=b"a b", headers=plain).text == "ab"
    browser = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    assert web.post("shout", json={"text": "a"}, headers=browser).headers["content-type"] == "application/json"


def picture(kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), (250, 0, 0)).save(out, kind)
    return out.getvalue()


def test_images_are_decoded_and_encoded_as_the_client_asks(web: httpx.Client, function: Any) -> None:
    jpeg = {"content-type": "image/jpeg"}
    answer = web.post("thumbnail", content=picture(), headers=jpeg)
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (4, 4)
    webp = web.post("thumbnail", files={"image": picture()}, data={"size": "2"}, headers={"accept": "image/webp"})
    assert webp.headers["content-type"] == "image/webp"
    refused = web.post("thumbnail", content=b"no image", headers=jpeg)
    assert (refused.status_code, "$.image" in refused.text) == (422, True)
    small = function("thumbnail").remote(Image.open(io.BytesIO(picture())), size=3)
    assert Image.open(io.BytesIO(small)).size == (3, 3)


def test_files_are_read_from_bodies_forms_and_the_sdk(web: httpx.Client, function: Any) -> None:
    assert web.post("measure", content=b"abc", headers={"content-type": "video/mp4"}).json()["bytes"] == 3
    form = web.post("measure", files={"file": b"abcd"}, data={"label": "7"})
    assert form.json() == {"bytes": 4, "label": "7"}
    assert function("measure").remote(io.BytesIO(b"12345"))["bytes"] == 5


def test_large_answers_are_packed_and_packed_bodies_unpacked(web: httpx.Client) -> None:
    for accept, unpack in (("gzip", gzip.decompress), ("zstd", zstd.decompress)):
        request = web.build_request("POST", "numbers", json={"count": 50_000}, headers={"accept-encoding": accept})
        answer = web.send(request, stream=True)
        raw = b"".join(answer.iter_raw())
        assert (answer.headers["content-encoding"], json.loads(unpack(raw))) == (accept, list(range(50_000)))
    headers = {"content-encoding": "zstd", "content-type": "application/json"}
    assert web.post("shout", content=zstd.compress(b'{"text": "a"}'), headers=headers).json() == "A"


def test_the_schema_names_the_media_types(web: httpx.Client) -> None:
    assert "image/*" in web.get("thumbnail/schema").json()["content_types"]
    assert "text/*" in web.get("shout/schema").json()["content_types"]
    assert web.get("measure/schema").json()["parameters"]["properties"]["file"]["contentEncoding"] == "base64"
