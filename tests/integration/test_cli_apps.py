"""`clip app …` and the applications of `clip deploy`, against a platform over HTTP."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from tests.support.fake_platform import FakePlatform, Refusal, client_environment, fake_platform
from tests.support.terminal import Done, clip, clip_process, on_terminal


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with fake_platform() as running:
        yield running


@pytest.fixture
def env(platform: FakePlatform) -> dict[str, str]:
    return client_environment(platform)


CREATE = ("app", "create", "vision", "--input-type", "doubles", "--default-output")


# Making and changing


def test_an_application_is_created_and_told_where_it_is_and_what_comes_next(
    platform: FakePlatform, env: dict[str, str]
) -> None:
    done = clip(*CREATE, "-1", "--slo-ms", "20", env=env)
    assert done.code == 0, done
    assert "✓ Created vision  doubles · single · answers within 20.0 ms" in done.out
    assert f"{platform.url}/vision/predict" in done.out
    assert "It answers -1 until a function is linked" in done.out
    assert "clip app link vision PROJECT/FUNCTION" in done.out
    spec = platform.apps.specs["vision"]
    assert (spec.default_output, spec.latency_slo_s, spec.policy) == (-1, 0.02, "single")


def test_every_option_becomes_its_key(platform: FakePlatform, env: dict[str, str]) -> None:
    options = [
        "--policy", "exp3", "--policy-option", "eta=0.1", "--policy-option", "note=text", "--loss", "absolute",
        "--loss-scale", "2.5", "--seed", "7", "--feedback-window", "60", "--max-contexts", "50", "--public",
        "--link", "digits/svm", "--link", "digits/forest@2",
    ]  # fmt: skip
    assert clip(*CREATE, "cat", *options, env=env).code == 0
    body = platform.body_of("POST", "/api/v1/apps")
    assert body["policy_options"] == {"eta": 0.1, "note": "text"}
    assert {key: body[key] for key in ("policy", "loss", "loss_scale", "seed", "feedback_window_s")} == {
        "policy": "exp3", "loss": "absolute", "loss_scale": 2.5, "seed": 7, "feedback_window_s": 60.0,
    }  # fmt: skip
    assert (body["max_contexts"], body["public"], body["default_output"]) == (50, True, "cat")
    assert [(link["function"], link["version"]) for link in body["links"]] == [
        ("digits/svm", None),
        ("digits/forest", 2),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [("-1", -1), ("0.5", 0.5), ("cat", "cat"), ('"5"', "5"), ("null", None), ("[1, 2]", [1, 2]), ("NaN", "NaN"),
     ('{"a": 1}', {"a": 1}), ("", ""), ("true", True)],
)  # fmt: skip
def test_a_default_output_is_json_or_a_text(platform: FakePlatform, env: dict[str, str], text: str, value: Any) -> None:
    assert clip(*CREATE, text, env=env).code == 0
    assert platform.apps.specs["vision"].default_output == value


def test_a_name_that_is_taken_says_how_to_change_it(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.apps.add("vision")
    done = clip(*CREATE, "0", env=env)
    assert (done.code, done.out) == (1, "")
    assert "application 'vision' exists already" in done.err
    assert "clip app set vision" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["app", "create", "vision"], 2, "Missing option '--input-type'"),
        (["app", "create", "v", "--input-type", "double", "--default-output", "0"], 2, "'double' is not one of"),
        ([*CREATE, "0", "--policy-option", "eta"], 2, "write KEY=VALUE"),
        ([*CREATE, "0", "--policy-option", "a=1", "--policy-option", "a=2"], 2, "a is given twice"),
        ([*CREATE, "0", "--slo-ms", "0"], 2, "0.0 is not in the range x>0"),
        ([*CREATE, "0", "--link", "digits"], 2, "link a function of it: digits/FUNCTION"),
        ([*CREATE, "0", "--link", "digits/svm", "--link", "digits/svm"], 1, "digits/svm is linked twice"),
        ([*CREATE, "0", "--policy", "exp33"], 1, "did you mean 'exp3'"),
        (["app", "create", "a,b", "--input-type", "doubles", "--default-output", "0"], 1, "application name 'a,b'"),
        (["app", "create", "fn", "--input-type", "doubles", "--default-output", "0"], 1, "/fn is a route"),
        (["app", "set", "vision"], 2, "Nothing to change"),
        (["app", "link", "vision", "digits"], 2, "names a project"),
        (["app", "link", "vision", "digits/svm", "--weight", "2"], 2, "2.0 is not in the range"),
        (["app", "predict", "vision"], 2, "give an INPUT, or --file"),
        (["app", "lst"], 2, "Did you mean one of: 'list', 'set'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_what_is_allowed(
    env: dict[str, str], arguments: list[str], code: int, words: str
) -> None:
    done = clip(*arguments, env=env)
    assert (done.code, done.out) == (code, "")
    assert words in " ".join(done.err.split())


def test_what_is_not_named_stays_when_an_application_is_changed(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.apps.add("vision", "digits/svm", "digits/forest@2", policy="exp3", policy_options={"eta": 0.1, "gamma": 1})
    done = clip("app", "set", "vision", "--slo-ms", "50", "--policy-option", "eta=0.2", env=env)
    assert done.code == 0, done
    assert "Changed vision" in done.out
    spec = platform.apps.specs["vision"]
    assert (spec.policy, spec.policy_options, spec.latency_slo_s) == ("exp3", {"eta": 0.2, "gamma": 1}, 0.05)
    assert [link.id for link in spec.links] == ["digits/svm", "digits/forest@2"]


def test_another_policy_begins_without_the_options_of_the_one_before(
    platform: FakePlatform, env: dict[str, str]
) -> None:
    platform.apps.add("vision", policy="exp3", policy_options={"eta": 0.1})
    assert clip("app", "set", "vision", "--policy", "majority", env=env).code == 0
    assert platform.apps.specs["vision"].policy_options == {}


def test_a_change_to_what_is_so_already_says_so(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.apps.add("vision", default_output=None)
    assert "is so already" in clip("app", "set", "vision", "--default-output", "null", env=env).out


def test_links_are_made_and_removed(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.apps.add("vision")
    assert "vision asks digits/svm now" in clip("app", "link", "vision", "digits/svm", env=env).out
    out = clip("app", "link", "vision", "digits/forest@2", "--parameter", "pixels", env=env).out
    assert "vision asks digits/forest@2 now, beside digits/svm" in out
    path = "/api/v1/apps/vision/links/digits/forest"
    assert platform.body_of("PUT", path) == {"parameter": "pixels"}
    out = clip("app", "unlink", "vision", "digits/svm", env=env).out
    assert "vision no longer asks digits/svm; it asks digits/forest@2" in out
    out = clip("app", "unlink", "vision", "digits/forest@2", env=env).out
    assert "no link left and answers its default output" in out


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["app", "status", "vison"], "Did you mean vision?"),
        (["app", "link", "vison", "digits/svm"], "Did you mean vision?"),
        (["app", "delete", "zzz", "--yes"], "Applications here: vision"),
        (["app", "explain", "vison"], "Did you mean vision?"),
        (["app", "feedback", "vison"], "Did you mean vision?"),
        (["app", "predict", "vison", "[1]"], "Did you mean vision?"),
        (["app", "label", "vison", "7", "1"], "Did you mean vision?"),
        (["app", "set", "vison", "--seed", "1"], "Did you mean vision?"),
        (["app", "link", "vision", "digits/analyse"], "Did you mean digits/analyze?"),
        (["app", "link", "vision", "digit/analyze"], "Did you mean digits?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    arguments: list[str], meant: str, platform: FakePlatform, env: dict[str, str]
) -> None:
    platform.add_project("digits")
    platform.apps.add("vision")
    done = clip(*arguments, env=env)
    assert (done.code, done.out) == (1, "")
    assert meant in done.err


def test_without_any_application_the_next_step_is_told(env: dict[str, str]) -> None:
    assert "clip app create NAME" in clip("app", "list", env=env).out
    assert "There are no applications here" in clip("app", "status", "vision", env=env).err


def test_the_list_is_one_plain_line_per_application(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.apps.add("vision", "digits/svm", "digits/forest@2", policy="exp4", latency_slo_s=0.02)
    platform.apps.add("words", input_type="strings")
    heading, *lines = clip("app", "list", env=env).out.splitlines()
    assert heading.split() == ["APPLICATION", "INPUT", "POLICY", "OBJECTIVE", "MODELS", "URL"]
    assert lines[0].split() == [
        "vision", "doubles", "exp4", "20.0", "ms", "digits/svm,", "digits/forest@2", f"{platform.url}/vision/predict",
    ]  # fmt: skip
    assert "none" in lines[1]
    document = json.loads(clip("app", "list", "--json", env=env).out)
    assert [app["name"] for app in document["applications"]] == ["vision", "words"]


def test_an_application_is_deleted_when_somebody_says_yes(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.apps.add("vision", "digits/svm")
    done = clip("app", "delete", "vision", env=env)
    assert (done.code, "--yes" in done.err) == (1, True)
    assert "vision" in platform.apps.specs
    assert "Deleted vision" in clip("app", "delete", "vision", "--yes", env=env).out
    assert platform.apps.specs == {}


def test_a_project_that_is_deleted_names_the_applications_that_ask_it(
    platform: FakePlatform, env: dict[str, str]
) -> None:
    platform.add_project("digits")
    platform.apps.add("vision", "digits/svm")
    platform.apps.add("another")
    done = clip("delete", "digits", "--yes", env=env)
    assert (done.code, done.out) == (0, "✓ Deleted digits\n")
    assert "Still linked to its functions: vision; see clip app status vision" in done.err


# Querying

ANSWER = {"query_id": 7, "output": {"digit": 3}, "default": False, "confidence": 0.75, "models": ["digits/svm"]}
LATE = {"query_id": 8, "output": -1, "default": True, "default_explanation": "too late"}


def test_a_prediction_is_alone_on_stdout(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.apps.add("vision", "digits/svm")
    platform.apps.prediction = ANSWER
    done = clip("app", "predict", "vision", "[1, 2.5]", "--context", "u", "--version", "3", env=env)
    assert (done.code, done.out) == (0, '{"digit": 3}\n')
    assert "by digits/svm · confidence 75% · query 7" in done.err
    assert "clip app label vision 7 LABEL" in done.err
    assert platform.body_of("POST", "/vision/predict") == {"input": [1, 2.5], "context": "u", "version": "3"}


def test_a_default_output_says_why(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.apps.add("vision")
    platform.apps.prediction = LATE
    done = clip("app", "predict", "vision", "[1]", env=env)
    assert (done.code, done.out) == (0, "-1\n")
    assert "the default output: too late" in done.err
    assert json.loads(clip("app", "predict", "vision", "[1]", "--json", env=env).out) == LATE


@pytest.mark.parametrize(
    ("kind", "argument", "sent"),
    [("doubles", "[1,2]", [1, 2]), ("strings", "5", "5"), ("strings", "[1]", "[1]"), ("bytes", "AP8=", "AP8=")],
)
def test_an_input_is_what_the_application_takes(
    platform: FakePlatform, env: dict[str, str], kind: str, argument: str, sent: Any
) -> None:
    platform.apps.add("vision", input_type=kind)
    platform.apps.prediction = ANSWER
    assert clip("app", "predict", "vision", argument, env=env).code == 0
    assert platform.body_of("POST", "/vision/predict") == {"input": sent}


def test_numbers_that_are_no_json_are_wrong_usage(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.apps.add("vision")
    done = clip("app", "predict", "vision", "[1, 2", env=env)
    assert (done.code, done.out) == (2, "")
    assert "not a list of doubles as JSON" in done.err


@pytest.mark.parametrize(
    ("kind", "content", "sent"),
    [("doubles", b"[1, 2]\n", [1, 2]), ("strings", b"a\nb", "a\nb"), ("bytes", b"\x00\xff", "AP8=")],
)
def test_an_input_may_come_from_a_file_or_a_pipe(
    platform: FakePlatform, env: dict[str, str], tmp_path: Path, kind: str, content: bytes, sent: Any
) -> None:
    platform.apps.add("vision", input_type=kind)
    platform.apps.prediction = ANSWER
    (tmp_path / "input").write_bytes(content)
    assert clip("app", "predict", "vision", "--file", str(tmp_path / "input"), env=env).code == 0
    assert platform.body_of("POST", "/vision/predict") == {"input": sent}
    assert clip("app", "predict", "vision", "--file", str(tmp_path / "none"), env=env).code == 1
    if kind != "bytes":
        assert clip("app", "predict", "vision", "--file", "-", env=env, stdin=content.decode()).code == 0
        assert platform.body_of("POST", "/vision/predict") == {"input": sent}


@pytest.mark.parametrize(("label", "sent"), [("3", 3), ("cat", "cat"), ("-1", -1), ("[1]", [1])])
def test_a_label_is_sent_for_a_query(platform: FakePlatform, env: dict[str, str], label: str, sent: Any) -> None:
    platform.apps.add("vision")
    done = clip("app", "label", "vision", "7", label, env=env)
    assert done.code == 0, done
    assert "Feedback for query 7 of vision counts" in done.out
    assert platform.body_of("POST", "/vision/update") == {"query_id": 7, "label": sent}
    assert "had its feedback before" in clip("app", "label", "vision", "7", label, env=env).out


# Looking


def test_status_is_a_table_of_the_models(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.apps.add("vision", "digits/svm", "digits/forest@2", policy="exp3", latency_slo_s=0.02)
    links = platform.apps.info("vision")["links"]
    links[0] |= {"asked": 1200, "answered": 1188, "recent_loss": 0.125, "agreement": 0.93}
    links[1] |= {"state": "no replica runs; a call starts one", "answers": None}
    platform.apps.more["vision"] = {
        "links": links, "predictions": 1222, "defaults": 12, "contexts": 2, "notice": "digits/forest@2 is gone",
        "feedback": {"joined": 300, "duplicate": 7, "unknown": 0, "invalid": 1},
    }  # fmt: skip
    platform.apps.explanation = EXPLANATION
    heading, url, facts, notice, _, columns, svm, forest = clip("app", "status", "vision", env=env).out.splitlines()
    assert heading == "vision  doubles · exp3 · answers within 20.0 ms, else -1"
    assert url.strip() == f"{platform.url}/vision/predict"
    assert facts.strip() == (
        "1,234 queries · 1.0% got the default output · 300 with feedback · 7 duplicate · 1 invalid · 2 contexts"
    )
    assert notice.strip() == "digits/forest@2 is gone"
    assert columns.split() == ["MODEL", "SHARE", "LOSS", "AGREES", "ASKED", "ANSWERED", "VERSION", "STATE"]
    assert svm.split() == ["digits/svm", "███████▌", "75%", "█▎", "0.125", "93%", "1,200", "99%", "1", "ready"]
    assert forest.split()[:5] == ["digits/forest@2", "██▌", "25%", "–", "–"]
    assert forest.endswith("no replica runs; a call starts one")
    assert json.loads(clip("app", "status", "vision", "--json", env=env).out)["predictions"] == 1222


def test_status_of_an_application_without_links_says_what_is_answered(
    platform: FakePlatform, env: dict[str, str]
) -> None:
    platform.apps.add("vision", default_output="?")
    platform.apps.explanation = {"policy": "single", "choice": "no linked model may be asked now", "models": []}
    out = clip("app", "status", "vision", env=env).out
    assert 'else "?"' in out
    assert "no queries yet" in out
    assert "every query gets the default output" in out
    assert "clip app link vision" in out
    assert "clip app link vision" in clip("app", "explain", "vision", env=env).out


EXPLANATION = {
    "policy": "exp3",
    "choice": "digits/svm with a probability of 75%: the lowest loss",
    "models": [
        {"model": "digits/svm", "share": 0.75, "feedbacks": 120, "loss": 0.125, "why": "the lowest loss"},
        {"model": "digits/forest@2", "share": 0.25, "feedbacks": 0, "loss": None, "why": "not known yet"},
    ],
}


def test_explain_gives_the_share_of_each_model_and_why(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.apps.add("vision", "digits/svm", "digits/forest@2", policy="exp3")
    platform.apps.explanation = EXPLANATION
    first, _, columns, svm, forest = clip("app", "explain", "vision", "--context", "user 7", env=env).out.splitlines()
    assert first == "vision  exp3 for user 7: digits/svm with a probability of 75%: the lowest loss"
    assert columns.split() == ["MODEL", "SHARE", "LOSS", "FEEDBACK", "WHY"]
    assert svm.split()[-4:] == ["120", "the", "lowest", "loss"]
    assert forest.split()[1:5] == ["██▌", "25%", "–", "0"]
    document = json.loads(clip("app", "explain", "vision", "--json", env=env).out)
    assert document["models"] == EXPLANATION["models"]


# Feedback as a data set

PAIRS = [
    {
        "time": 1000.0, "query_id": 1, "context": "", "input": [1.0, 2.0], "label": 3, "default": False,
        "answers": {"digits/svm": 3, "digits/forest@2": 4}, "losses": {"digits/svm": 0.0, "digits/forest@2": 1.0},
    },
    {
        "time": 2000.0, "query_id": 2, "context": "u,7", "input": [3.5], "label": 4, "default": False,
        "answers": {"digits/svm": 4}, "losses": {"digits/svm": 0.0},
    },
]  # fmt: skip


@pytest.fixture
def labelled(platform: FakePlatform) -> FakePlatform:
    platform.apps.add("vision", "digits/svm")
    platform.apps.pairs = PAIRS
    return platform


def test_feedback_is_a_line_for_each_prediction(labelled: FakePlatform, env: dict[str, str]) -> None:
    done = clip("app", "feedback", "vision", env=env)
    assert (done.code, done.err) == (0, "")
    assert [json.loads(line) for line in done.out.splitlines()] == PAIRS
    assert clip("app", "feedback", "vision", "--json", env=env).out == done.out
    later = clip("app", "feedback", "vision", "--since", "1970-01-01T00:20:00+00:00", env=env)
    assert [json.loads(line)["query_id"] for line in later.out.splitlines()] == [2]


def test_feedback_as_csv_has_a_column_for_each_model(labelled: FakePlatform, env: dict[str, str]) -> None:
    out = clip("app", "feedback", "vision", "--format", "csv", env=env).out
    first, second = csv.DictReader(io.StringIO(out))
    assert first["input"] == "[1.0, 2.0]"
    assert (first["answers.digits/svm"], first["losses.digits/forest@2"]) == ("3", "1.0")
    assert (second["context"], second["answers.digits/forest@2"]) == ("u,7", "")


def test_feedback_as_parquet_has_types(labelled: FakePlatform, env: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "pairs.parquet"
    done = clip("app", "feedback", "vision", "--output", str(target), env=env)
    assert "2 predictions with feedback in" in done.out
    table = parquet.read_table(target)
    assert table.column("input").to_pylist() == [[1.0, 2.0], [3.5]]
    assert str(table.schema.field("label").type) == "int64"
    assert table.column("answers.digits/forest@2").to_pylist() == [4, None]
    document = json.loads(clip("app", "feedback", "vision", "-o", str(target), "--json", env=env).out)
    assert document == {"application": "vision", "count": 2, "format": "parquet", "file": str(target)}


def test_parquet_goes_through_a_pipe(labelled: FakePlatform, env: dict[str, str]) -> None:
    done = clip_process("app", "feedback", "vision", "--format", "parquet", env=env, binary=True)
    table = parquet.read_table(io.BytesIO(done.out.encode("latin-1")))
    assert table.num_rows == 2


def test_without_pyarrow_the_message_says_what_to_install(
    labelled: FakePlatform, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = clip("app", "feedback", "vision", "--format", "parquet", env=env)
    assert (done.code, done.out) == (1, "")
    assert "pip install 'clipper[parquet]'" in done.err
    assert labelled.requests == []


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv", "pairs.parquet"])
def test_without_feedback_a_file_is_empty_and_the_way_to_it_is_told(
    platform: FakePlatform, env: dict[str, str], tmp_path: Path, name: str
) -> None:
    platform.apps.add("vision")
    done = clip("app", "feedback", "vision", "--output", str(tmp_path / name), env=env)
    assert done.code == 0
    assert "clip app label vision QUERY_ID LABEL" in done.err
    if name.endswith("csv"):
        assert (tmp_path / name).read_text().startswith("time,query_id,predicted_at,context,input,label")
    elif name.endswith("parquet"):
        assert parquet.read_table(tmp_path / name).num_rows == 0
    else:
        assert (tmp_path / name).read_bytes() == b""


def test_a_file_that_cannot_be_written_is_named(labelled: FakePlatform, env: dict[str, str], tmp_path: Path) -> None:
    done = clip("app", "feedback", "vision", "--output", str(tmp_path / "no" / "pairs.csv"), env=env)
    assert (done.code, "Cannot write" in done.err) == (1, True)


def test_an_export_that_breaks_leaves_the_file_before(
    platform: FakePlatform, env: dict[str, str], tmp_path: Path
) -> None:
    target = tmp_path / "pairs.csv"
    target.write_text("before")
    platform.apps.add("another")
    assert clip("app", "feedback", "vision", "--output", str(target), env=env).code == 1
    assert (target.read_text(), [path.name for path in tmp_path.iterdir()]) == ("before", ["pairs.csv"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--since", "yesterday"], "'yesterday' is not a time"),
        (["--format", "xml"], "'xml' is not one of"),
        (["--json", "--format", "csv"], "--json prints JSON lines"),
    ],
)
def test_an_export_that_cannot_be_is_wrong_usage(
    labelled: FakePlatform, env: dict[str, str], options: list[str], words: str
) -> None:
    done = clip("app", "feedback", "vision", *options, env=env)
    assert done.code == 2
    assert words in " ".join((done.err + done.out).split())


def test_parquet_is_not_poured_into_a_terminal(labelled: FakePlatform, env: dict[str, str]) -> None:
    with on_terminal("app", "feedback", "vision", "--format", "parquet", env=env) as terminal:
        done = terminal.finish()
    assert done.code == 2
    assert "name a file with --output" in " ".join(done.out.split())


def test_on_a_terminal_the_status_has_bars_and_fits(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.apps.add("vision", "digits/svm", "digits/forest@2", policy="exp3")
    platform.apps.explanation = EXPLANATION
    with on_terminal("app", "status", "vision", env=env) as terminal:
        done = terminal.finish()
    assert done.code == 0
    assert "███████▌" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


# With a deploy

APP = """
import clipper

@clipper.function()
def analyze(text: str) -> dict: ...
"""

VISION = '[apps.vision]\ninput_type = "strings"\ndefault_output = "?"\nlinks = ["analyze"]\n'


def deploy(directory: Path, env: dict[str, str], toml: str, *options: str) -> Done:
    (directory / "app.py").write_text(APP)
    (directory / "clip.toml").write_text(f'name = "digits"\n{toml}')
    return clip("deploy", str(directory), *options, env=env)


def test_a_deploy_makes_the_applications_of_the_file(
    platform: FakePlatform, env: dict[str, str], tmp_path: Path
) -> None:
    done = deploy(tmp_path, env, VISION)
    assert done.code == 0, done
    assert "✓ Created application vision" in done.out
    assert f"{platform.url}/vision/predict" in done.out
    assert [link.id for link in platform.apps.specs["vision"].links] == ["digits/analyze"]
    again = deploy(tmp_path, env, VISION)
    assert again.code == 0
    assert "No changes to application vision" in again.out


def test_a_deploy_with_json_has_the_applications_in_its_document(
    platform: FakePlatform, env: dict[str, str], tmp_path: Path
) -> None:
    document = json.loads(deploy(tmp_path, env, VISION, "--json").out)
    assert document["state"] == "succeeded"
    assert document["apps"] == [{"name": "vision", "outcome": "created", "url": f"{platform.url}/vision/predict"}]
    assert "apps" not in json.loads(deploy(tmp_path, env, "", "--json").out)


def test_an_application_that_fails_leaves_the_deploy_and_the_others(
    platform: FakePlatform, env: dict[str, str], tmp_path: Path
) -> None:
    broken = '[apps.broken]\ninput_type = "strings"\ndefault_output = "?"\nlinks = ["other/f"]\n'
    done = deploy(tmp_path, env, broken + VISION)
    assert done.code == 1
    assert "Deployed digits version 1" in done.out
    assert "✓ Created application vision" in done.out
    assert "Application broken: there is no function 'other/f'" in done.err
    assert "The version is deployed and answers all the same" in done.err
    document = json.loads(deploy(tmp_path, env, broken + VISION, "--json").out)
    assert [(app["name"], app["outcome"]) for app in document["apps"]] == [
        ("broken", "failed"),
        ("vision", "unchanged"),
    ]
    assert document["apps"][0]["error"]["code"] == "not_found"


def test_an_application_that_the_file_no_longer_has_stays_and_is_named(
    platform: FakePlatform, env: dict[str, str], tmp_path: Path
) -> None:
    platform.add_project("digits")
    platform.apps.add("vision", "digits/analyze")
    platform.apps.add("another", "digits/analyze")
    platform.declared_apps = ["vision", "gone"]
    done = deploy(tmp_path, env, "")
    assert done.code == 0
    assert "clip.toml has [apps.vision] no longer" in done.err
    assert "clip app delete vision" in done.err
    assert "another" not in done.err + done.out
    assert "gone" not in done.err
    assert set(platform.apps.specs) == {"vision", "another"}


def test_a_deploy_that_fails_leaves_the_applications_alone(
    platform: FakePlatform, env: dict[str, str], tmp_path: Path
) -> None:
    platform.deploy_error = {"code": "deploy_failed", "message": "no", "phase": "replicas"}
    assert deploy(tmp_path, env, VISION).code == 1
    assert platform.apps.specs == {}


def test_a_wrong_key_of_an_application_is_found_before_anything_is_deployed(
    platform: FakePlatform, env: dict[str, str], tmp_path: Path
) -> None:
    done = deploy(tmp_path, env, VISION.replace("links", "lnks"))
    assert done.code == 1
    assert "clip.toml [apps.vision]: unknown key 'lnks'; did you mean 'links'?" in done.err
    assert platform.requests == []


def test_config_show_has_the_applications_with_their_sources(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "clip.toml").write_text(f'name = "digits"\n{VISION}')
    rows = [line.split() for line in clip("config", "show", str(tmp_path), env=env).out.splitlines()]
    section = rows[rows.index(["[apps.vision]", "VALUE", "FROM"]) :]
    assert ["links", '["digits/analyze"]', "clip.toml"] in section
    assert ["policy", '"single"', "default"] in section
    document = json.loads(clip("config", "show", str(tmp_path), "--json", env=env).out)
    assert document["project"]["apps"]["vision"]["latency_slo_s"] == {"value": 0.1, "from": "default"}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("clip app status vi", {"vision"}),
        ("clip app unlink vision d", {"digits/svm", "digits/forest@2"}),
        ("clip app link vision d", {"digits/analyze"}),
        ("clip app create x --policy ex", {"exp3", "exp4"}),
    ],
)
def test_the_shell_completes_applications_and_their_links(
    words: str, found: set[str], platform: FakePlatform, env: dict[str, str]
) -> None:
    platform.add_project("digits")
    platform.apps.add("vision", "digits/svm", "digits/forest@2")
    platform.apps.add("words")
    asked = {"_CLIP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    assert set(clip_process(env=env | asked).out.splitlines()) == {f"plain,{name}" for name in found}


def test_a_key_for_queries_alone_is_enough_to_predict(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.apps.add("vision")
    platform.apps.hidden = True
    platform.apps.prediction = ANSWER
    assert clip("app", "predict", "vision", "[1]", env=env).out == '{"digit": 3}\n'
    assert clip("app", "status", "vision", env=env).code == 1


def test_a_platform_that_refuses_is_reported(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.apps.refusal = lambda status, code, message: Refusal(403, "forbidden", "the key may not do that")
    done = clip("app", "status", "vision", env=env)
    assert (done.code, "may not do that" in done.err) == (1, True)
