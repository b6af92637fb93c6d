"""Declarations: what is accepted comes back unchanged, what is not is a SpecError and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.contract.manifest import MAX_KEEP_VERSIONS, Manifest
from clipper.contract.spec import AutoscalingPolicy, EnvironmentSpec, FunctionSpec, Schedule, SpecError, option_limits

SECONDS = st.floats(0, 86_400 * 7)
POSITIVE = st.floats(0.001, 86_400 * 7)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)
ENTRYPOINTS = st.from_regex(r"[a-z_][a-z0-9_]{0,8}(\.[a-z]{1,5})?:[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)

SCHEDULES = st.builds(
    Schedule,
    cron=st.just("0 8 * * 1-5"),
    duration_s=POSITIVE,
    min_replicas=st.integers(0, 3),
    max_replicas=st.none() | st.integers(3, 9),
    timezone=st.sampled_from(["UTC", "Europe/Berlin"]),
)

POLICIES = st.builds(
    AutoscalingPolicy,
    target_ongoing_requests=st.none() | st.floats(0.1, 1000),
    min_replicas=st.integers(0, 4),
    max_replicas=st.integers(4, 100),
    buffer_replicas=st.integers(0, 4),
    max_scale_up_rate=st.floats(1.1, 1000),
    max_scale_down_rate=st.floats(1.1, 1000),
    upscale_delay_s=SECONDS,
    downscale_delay_s=SECONDS,
    downscale_to_zero_delay_s=SECONDS,
    stable_window_s=st.floats(60, 600),
    panic_window_s=st.floats(0.1, 60),
    panic_threshold=st.floats(1, 1000),
    schedule=st.lists(SCHEDULES, max_size=2).map(tuple),
)

# Values of these ranges do not contradict each other.
SPECS = st.builds(
    FunctionSpec,
    name=NAMES,
    entrypoint=ENTRYPOINTS,
    max_batch_size=st.integers(2, 65_536),
    batch_wait_timeout_s=st.floats(0, 0.09),
    batch_policy=st.sampled_from([None, "static"]),
    batch_size_key=st.none() | st.text(),
    on_batch_error=st.sampled_from(["bisect", "fail"]),
    latency_slo_s=st.none() | st.floats(0.1, 1),
    max_ongoing_requests=st.none() | st.integers(1, 100),
    max_queued_requests=st.integers(1, 100_000),
    timeout_s=st.floats(1, 86_400),
    startup_timeout_s=POSITIVE,
    graceful_shutdown_timeout_s=SECONDS,
    health_check_period_s=POSITIVE,
    max_retries=st.integers(0, 20),
    cache_ttl_s=st.none() | POSITIVE,
    default_output=JSON,
    hedge_after=st.none() | st.floats(0.5, 0.9999),
    memory_bytes=st.none() | st.integers(16 * 1024 * 1024, 1 << 40),
    max_invocations=st.none() | st.integers(1, 10**9),
    public=st.booleans(),
    autoscaling=POLICIES,
)

# Anything, with a liking for names that mean something, so that deeper checks are reached.
KEYS = st.sampled_from(
    [*FunctionSpec.option_names(), "schedule", "cron", "project", "bundle", "environment", "functions", "python",
     "requirements", "exclude", "duration_s", "timezone"]
) | st.text(max_size=5)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4)
    | st.sampled_from([10**400, "-r", "=", "sha256:" + "0" * 64, "app:f", "3.11", "0 0 * * *"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
TABLES = st.dictionaries(KEYS, ANYTHING, max_size=5)


def refusal(read: Callable[[], object]) -> str:
    """What a SpecError says; "" where there is none. Any other exception is let through, and fails the test."""
    try:
        read()
    except SpecError as error:
        return str(error)
    return ""


@given(SPECS)
def test_a_spec_survives_being_written_and_read(spec: FunctionSpec) -> None:
    assert FunctionSpec.from_dict(spec.to_dict()) == spec


@given(
    st.builds(
        Manifest,
        project=NAMES,
        bundle=st.just("sha256:" + "a" * 64),
        environment=st.builds(
            EnvironmentSpec,
            python=st.sampled_from([None, "3.11", "3.12.1"]),
            requirements=st.lists(st.sampled_from(["numpy>=2", "torch"]), max_size=2).map(tuple),
            exclude=st.sampled_from([(), ("torch",)]),
        ),
        functions=st.lists(SPECS, min_size=1, max_size=3, unique_by=lambda spec: spec.name).map(tuple),
        keep_versions=st.integers(1, MAX_KEEP_VERSIONS),
    )
)
def test_a_manifest_survives_being_written_and_read(manifest: Manifest) -> None:
    assert Manifest.from_dict(manifest.to_dict()) == manifest


@settings(max_examples=300)
@given(TABLES | ANYTHING)
def test_whatever_comes_is_accepted_or_refused_with_a_spec_error(table: Any) -> None:
    readers: list[Callable[[Any], object]] = [
        Manifest.from_dict,
        FunctionSpec.from_dict,
        partial(AutoscalingPolicy.parse, where="x"),
        partial(Schedule.parse, where="x"),
        EnvironmentSpec.parse,
    ]
    for read in readers:
        assert len(refusal(partial(read, table))) < 3000


@settings(max_examples=300)
@given(TABLES)
def test_options_are_accepted_or_refused_with_a_spec_error(table: dict[str, Any]) -> None:
    assert len(refusal(lambda: FunctionSpec.check_options(table, where="x"))) < 3000
    assert len(refusal(lambda: FunctionSpec.parse("f", "app:f", table))) < 3000


@given(TABLES)
def test_what_parses_has_passed_the_check_of_its_options(table: dict[str, Any]) -> None:
    if refusal(lambda: FunctionSpec.parse("f", "app:f", table)):
        return
    FunctionSpec.check_options({k: v for k, v in table.items() if k not in ("name", "entrypoint")}, where="x")


@given(st.sampled_from(sorted(FunctionSpec.option_names())), st.data())
def test_a_typing_error_in_a_key_is_refused_with_a_known_key(key: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(key) - 1))
    wrong = key[:place] + key[place + 1 :]
    if wrong in FunctionSpec.option_names() or len(wrong) < 3:
        return
    with pytest.raises(SpecError) as caught:
        FunctionSpec.parse("f", "app:f", {wrong: 1})
    assert caught.value.key == wrong
    assert any(known in caught.value.message for known in FunctionSpec.option_names())


@pytest.mark.parametrize(
    "value", [10**5000, -(10**5000), [10**5000], "x" * 10_000], ids=["huge", "negative", "nested", "text"]
)
@pytest.mark.parametrize("key", ["timeout_s", "max_retries", "batch_policy", "default_output", "autoscaling", "name"])
def test_a_value_too_large_to_print_is_refused_in_few_words(key: str, value: Any) -> None:
    told = refusal(lambda: FunctionSpec.from_dict({"name": "f", "entrypoint": "app:f", key: value}))
    assert bool(told) is not (key == "default_output" and isinstance(value, str))
    assert len(told) < 400


def test_every_key_with_a_range_says_it_in_words() -> None:
    assert option_limits()["max_retries"] == "a whole number at least 0 and at most 20"
    assert option_limits()["batch_policy"] == "one of 'aimd', 'latency_model', 'static', 'none'"
