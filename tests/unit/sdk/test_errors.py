from __future__ import annotations

import pickle

from clipper import errors


def test_an_error_survives_pickling_with_its_fields() -> None:
    error = errors.error_for(
        "function_error", 500, "boom", request_id="r1", retry_after_s=2.0, details={"type": "ValueError"}
    )
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, errors.FunctionError)
    assert str(again) == "boom"
    assert again.exception_type == "ValueError"
    assert (again.request_id, again.retry_after_s, again.status) == ("r1", 2.0, 500)


def test_a_code_of_a_newer_platform_is_kept_and_judged_by_its_status() -> None:
    unknown = errors.error_for("solar_flare", 503, "later")
    assert type(unknown) is errors.ClipperError
    assert (unknown.code, unknown.status, unknown.retryable) == ("solar_flare", 503, True)
    assert not errors.error_for("bad_karma", 400, "no").retryable


def test_a_failed_deploy_tells_phase_exception_log_and_hint() -> None:
    error = errors.error_for(
        "deploy_failed", 422, "no", details={"phase": "replicas", "exception": "E: x", "log": ["a", "b"], "hint": "fix"}
    )
    assert isinstance(error, errors.DeployFailed)
    assert (error.phase, error.exception, error.log, error.hint) == ("replicas", "E: x", ["a", "b"], "fix")
    bare = errors.DeployFailed("no", details={"log": None})
    assert (bare.phase, bare.exception, bare.log, bare.hint) == ("", "", [], "")
