from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

import clipper
from clipper import errors
from clipper.closures import dump_closure
from clipper.contract.manifest import Manifest
from clipper.contract.spec import SpecError
from clipper.control import ControlClient
from clipper.deploying import deploy_project
from clipper.packaging import bundle_directory
from clipper.project import load_project
from tests.unit.sdk import local_helpers
from tests.unit.sdk.scripted_platform import ScriptedPlatform, Seen, json_response

OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class Deployments:
    """The deployment rows of the control API, on a scripted platform: one deployment that ends as asked for."""

    def __init__(self, platform: ScriptedPlatform, project: str = "demo") -> None:
        self.bundles: dict[str, bytes] = {}
        self.outcome: dict[str, Any] = {"id": "d1", "state": "succeeded", "version": 1, "functions": []}
        self.first_state = "running"
        self.manifests: list[dict[str, Any]] = []
        self.cancelled = threading.Event()
        self.on_events: Callable[[], Response] = lambda: self.lines(
            {"seq": 1, "kind": "phase", "phase": "environment"},
            {"seq": 2, "kind": "phase_done", "phase": "environment", "data": {"seconds": 0.1, "reused": True}},
            {"seq": 3, "kind": "done", "data": {"deployment": self.outcome}},
        )
        self._platform = platform
        platform.api |= {
            f"POST /api/v1/projects/{project}/deployments": self.create,
            "GET /api/v1/deployments/d1": lambda seen: json_response(self.outcome),
            "GET /api/v1/deployments/d1/events": lambda seen: self.on_events(),
            "DELETE /api/v1/deployments/d1": self.cancel,
        }

    @staticmethod
    def lines(*events: Mapping[str, Any]) -> Response:
        return Response("".join(json.dumps(e) + "\n" for e in events), media_type="application/x-ndjson")

    def expect(self, digest: str) -> None:
        path = f"/api/v1/bundles/{digest}"

        def put(seen: Seen) -> Response:
            self.bundles[digest] = seen.body
            return json_response({"digest": digest, "bytes": len(seen.body)}, 201)

        self._platform.api[f"PUT {path}"] = put
        self._platform.api[f"HEAD {path}"] = lambda seen: Response(status_code=200 if digest in self.bundles else 404)

    def create(self, seen: Seen) -> Response:
        self.manifests.append(json.loads(seen.body))
        return json_response({**self.outcome, "state": self.first_state}, 202)

    def cancel(self, seen: Seen) -> Response:
        self.cancelled.set()
        return json_response({**self.outcome, "state": "cancelled"})


@pytest.fixture
def control(platform: ScriptedPlatform) -> Iterator[ControlClient]:
    with ControlClient(sleep=lambda seconds: None) as client:
        yield client


@pytest.fixture
def deployments(platform: ScriptedPlatform) -> Deployments:
    return Deployments(platform)


def test_a_project_is_bundled_uploaded_deployed_and_followed(
    control: ControlClient, deployments: Deployments, project_directory: Path
) -> None:
    bundle = bundle_directory(project_directory)
    deployments.expect(bundle.digest)
    events: list[Mapping[str, Any]] = []
    project = load_project(project_directory)
    deployment = deploy_project(project, control, events.append)
    assert deployment == deployments.outcome
    assert deployments.bundles == {bundle.digest: bundle.data}
    manifest = deployments.manifests[0]
    assert manifest.pop("force") is False
    assert Manifest.from_dict(manifest) == project.manifest(bundle.digest)
    assert [(e["kind"], e.get("phase")) for e in events] == [
        ("phase", "bundle"), ("phase_done", "bundle"), ("phase", "upload"), ("progress", "upload"),
        ("phase_done", "upload"), ("accepted", None), ("phase", "environment"), ("phase_done", "environment"),
        ("done", None),
    ]  # fmt: skip
    bundled, uploaded = events[1]["data"], events[4]["data"]
    assert (bundled["digest"], bundled["files"], bundled["bytes"]) == (bundle.digest, 2, len(bundle.data))
    assert events[3]["data"] == {"sent": len(bundle.data), "total": len(bundle.data)}
    assert uploaded["reused"] is False
    assert events[5]["data"]["deployment"]["id"] == "d1"


def test_a_bundle_that_the_platform_has_is_not_sent_again(
    platform: ScriptedPlatform, control: ControlClient, deployments: Deployments, project_directory: Path
) -> None:
    digest = bundle_directory(project_directory).digest
    deployments.expect(digest)
    deployments.bundles[digest] = b""
    events: list[Mapping[str, Any]] = []
    deploy_project(load_project(project_directory), control, events.append, force=True)
    assert not any(path.startswith("PUT") for path in platform.paths())
    assert any(e.get("phase") == "upload" and e.get("data", {}).get("reused") for e in events)
    assert deployments.manifests[0]["force"] is True


def test_an_unchanged_project_is_not_followed(
    platform: ScriptedPlatform, control: ControlClient, deployments: Deployments, project_directory: Path
) -> None:
    deployments.expect(bundle_directory(project_directory).digest)
    deployments.first_state = "unchanged"
    assert deploy_project(load_project(project_directory), control, lambda e: None)["state"] == "unchanged"
    assert not any("events" in path for path in platform.paths())


def test_a_failed_deployment_is_raised_with_all_that_is_known(
    control: ControlClient, deployments: Deployments, project_directory: Path
) -> None:
    deployments.expect(bundle_directory(project_directory).digest)
    deployments.outcome |= {
        "state": "failed",
        "error": {
            "code": "deploy_failed", "message": "shout did not start", "phase": "replicas",
            "exception": "KeyError: 'model'", "log": ["Traceback"], "hint": "look at app.py",
        },
    }  # fmt: skip
    with pytest.raises(errors.DeployFailed, match="shout did not start") as caught:
        deploy_project(load_project(project_directory), control, lambda e: None)
    error = caught.value
    assert (error.phase, error.exception, error.log) == ("replicas", "KeyError: 'model'", ["Traceback"])
    assert (error.hint, error.details["deployment"]) == ("look at app.py", "d1")


def test_a_deployment_that_someone_cancelled_is_a_failed_one(
    control: ControlClient, deployments: Deployments, project_directory: Path
) -> None:
    deployments.expect(bundle_directory(project_directory).digest)
    deployments.outcome |= {"state": "cancelled", "error": None}
    with pytest.raises(errors.DeployFailed, match="the deployment of demo was cancelled"):
        deploy_project(load_project(project_directory), control, lambda e: None)


def test_an_interruption_cancels_the_deployment(
    control: ControlClient, deployments: Deployments, project_directory: Path
) -> None:
    deployments.expect(bundle_directory(project_directory).digest)

    def interrupted(event: Mapping[str, Any]) -> None:
        if event.get("phase") == "environment":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy_project(load_project(project_directory), control, interrupted)
    assert deployments.cancelled.is_set()


def test_code_that_an_ignore_file_leaves_out_is_refused_before_anything_is_sent(
    platform: ScriptedPlatform, control: ControlClient, project_directory: Path
) -> None:
    (project_directory / ".gitignore").write_text("app.py\n")
    with pytest.raises(SpecError, match=r"app\.py is not in the bundle.*add !app\.py to \.clipignore"):
        deploy_project(load_project(project_directory), control, lambda e: None)
    assert platform.seen == []


# Closures


def run_elsewhere(pickled: bytes, call: str, tmp_path: Path) -> str:
    """Load a closure as a replica does, where none of this machine's modules are; what `call` prints."""
    (tmp_path / "closure.pkl").write_bytes(pickled)
    code = (
        "import pickle, sys\n"
        "f = pickle.load(open('closure.pkl', 'rb'))\n"
        "assert 'tests' not in sys.modules, 'the closure needs this machine'\n"
        f"print({call})\n"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_a_closure_travels_with_what_it_captured(tmp_path: Path) -> None:
    offset = 5

    def add(n: int) -> int:
        return n + offset

    assert run_elsewhere(dump_closure(add), "f(3)", tmp_path) == "8"


def test_modules_of_this_machine_travel_by_value(tmp_path: Path) -> None:
    def use(n: int) -> float:
        return local_helpers.scaled(n) + len(local_helpers.doubled([1, 2]))

    assert run_elsewhere(dump_closure(use), "f(4)", tmp_path) == "8.0"
    assert run_elsewhere(dump_closure(local_helpers.scaled), "f(9)", tmp_path) == "9.0"


def test_a_decorated_function_among_what_was_captured_stays_one(tmp_path: Path) -> None:
    from tests.unit.sdk.local_helpers import doubled

    def use(n: int) -> Any:
        return doubled.local([n]), doubled([n]), doubled.options

    assert run_elsewhere(dump_closure(use), "f(4)", tmp_path) == "([8], [8], {'max_batch_size': 4})"


def test_a_decorated_function_may_call_itself(tmp_path: Path) -> None:
    @clipper.function()
    def factorial(n: int) -> int:
        return 1 if n == 0 else n * factorial(n - 1)

    assert run_elsewhere(dump_closure(factorial.wrapped), "f(5)", tmp_path) == "120"


def test_a_class_travels_with_its_methods(tmp_path: Path) -> None:
    class Model:
        def __init__(self) -> None:
            self.bias = local_helpers.FACTOR

        def __call__(self, n: int) -> int:
            return n + self.bias

    assert run_elsewhere(dump_closure(Model), "f()(4)", tmp_path) == "7"


def test_dumping_leaves_no_module_registered() -> None:
    import cloudpickle  # type: ignore[import-untyped]  # it ships no types

    before = set(cloudpickle.list_registry_pickle_by_value())
    dump_closure(local_helpers.scaled)
    assert set(cloudpickle.list_registry_pickle_by_value()) == before


def test_what_cannot_be_sent_is_refused_with_the_reason() -> None:
    lock = threading.Lock()

    def locked() -> bool:
        return lock.locked()

    with pytest.raises(SpecError, match=r"locked refers to something that cannot be sent .*lock"):
        dump_closure(locked)


def deploy(deployments: Deployments, platform: ScriptedPlatform, fn: Any, **more: Any) -> clipper.Function[..., Any]:
    """`clipper.deploy` with whatever bundle it makes accepted."""

    def put(seen: Seen) -> Response:
        deployments.bundles[seen.path.rpartition("/")[2]] = seen.body
        return json_response({}, 201)

    class AnyBundle(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            return put if key.startswith("PUT /api/v1/bundles/") else super().get(key, default)

    platform.api = AnyBundle(platform.api)
    return clipper.deploy(fn, name="demo/sum", **more)


def test_a_closure_is_deployed_and_given_back_bound(
    platform: ScriptedPlatform, deployments: Deployments, tmp_path: Path
) -> None:
    def add(a: int, b: int = 1) -> int:
        return a + b

    deployed = deploy(deployments, platform, add, requirements=["numpy>=2"], timeout_s=5, min_replicas=2)
    manifest = deployments.manifests[0]
    assert manifest["project"] == "demo"
    assert manifest["environment"] == {"python": OWN_PYTHON, "requirements": ["numpy>=2"]}
    (function,) = manifest["functions"]
    assert (function["name"], function["entrypoint"]) == ("sum", "__closure__:add")
    assert (function["timeout_s"], function["autoscaling"]["min_replicas"]) == (5.0, 2)
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(deployments.bundles[manifest["bundle"]])) as archive:
        (member,) = archive.getmembers()
        file = archive.extractfile(member)
        assert file is not None
        assert member.name == "__closure__.pkl"
        assert run_elsewhere(file.read(), "f(3)", tmp_path) == "4"
    platform.functions["sum"] = lambda a, b=1: a + b
    assert deployed.remote(3) == 4
    assert deployed(3, b=4) == 7
    assert str(deployed.address) == "demo/sum"


def test_a_decorated_function_is_deployed_with_its_options(
    platform: ScriptedPlatform, deployments: Deployments
) -> None:
    deploy(deployments, platform, local_helpers.doubled, timeout_s=7)
    (function,) = deployments.manifests[0]["functions"]
    assert (function["max_batch_size"], function["timeout_s"]) == (4, 7.0)


def test_a_function_deployed_by_a_given_client_calls_that_ones_platform(
    platform: ScriptedPlatform, deployments: Deployments, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ControlClient(platform.url, "clip_other") as control:
        monkeypatch.setenv("CLIP_URL", "http://127.0.0.1:1")
        function = deploy(deployments, platform, local_helpers.scaled, control=control)
    platform.functions["sum"] = lambda n: n
    assert function.remote(3) == 3
    assert platform.seen[-1].headers["authorization"] == "Bearer clip_other"


def test_a_lambda_gets_a_name(platform: ScriptedPlatform, deployments: Deployments) -> None:
    deploy(deployments, platform, lambda n: n + 1)
    assert deployments.manifests[0]["functions"][0]["entrypoint"] == "__closure__:lambda"


@pytest.mark.parametrize("python", ["3.9", "3.99", "2.7", "3", "latest", OWN_PYTHON + "1"])
def test_another_python_is_refused_because_bytecode_would_not_load(python: str) -> None:
    with pytest.raises(SpecError, match=r"a closure of Python 3\.\d+ can only be loaded by"):
        clipper.deploy(lambda: 1, name="demo/sum", python=python)


@pytest.mark.parametrize(
    ("name", "options"),
    [("demo", {}), ("demo/sum@2", {}), ("demo/sum", {"timeout": 5}), ("demo/sum", {"requirements": ["-r x.txt"]})],
)
def test_a_wrong_declaration_is_refused_before_anything_is_sent(
    platform: ScriptedPlatform, name: str, options: dict[str, Any]
) -> None:
    with pytest.raises(SpecError):
        clipper.deploy(lambda: 1, name=name, **options)
    assert platform.seen == []
