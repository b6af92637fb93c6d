"""`clip policy …`: autoscaling policies as files, checked and applied; `clip explain`: why so many replicas."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from clipper.cli.options import FunctionArgument, Json, connect
from clipper.cli.policyfile import PolicyFile, read_policy

if TYPE_CHECKING:
    from clipper.cli.console import Output, Part
    from clipper.cli.names import Target
    from clipper.contract.spec import AutoscalingPolicy
    from clipper.control import ControlClient

__all__ = ["apply", "check", "explain", "reset", "show"]


# Check and apply


def check(file: PolicyFile, json: Json = False) -> None:
    """Check a policy file, and show what it says.

    Needs no platform.
    """
    from clipper.cli.console import OK, Output

    out = Output(json=json)
    policy, table, digest = read_policy(file)
    _check_schedules(policy, file.name)
    advice = _advice(policy)
    if json:
        out.document({"file": str(file), "digest": digest, "policy": policy.to_dict(), "notes": advice})
        return
    out.line((f"{OK} ", "green"), (file.name, "bold"), " is a policy")
    _show_policy(out, policy.to_dict(), table)
    for note in advice:
        out.note(("! ", "yellow"), note, wrap=True)


def _check_schedules(policy: AutoscalingPolicy, where: str) -> None:
    """Raises SpecError for a cron expression that no platform would take."""
    from clipper.contract.cron import never
    from clipper.contract.spec import SpecError

    for number, schedule in enumerate(policy.schedule, 1):
        if why := never(schedule.cron):
            raise SpecError(
                f"cron = {schedule.cron!r} is not allowed: {why}", where=f"{where} [[schedule]] {number}", key="cron"
            )


def _advice(policy: AutoscalingPolicy) -> list[str]:
    """What is allowed but seldom meant."""
    told = []
    if policy.min_replicas == 0 and 0 < policy.downscale_to_zero_delay_s < policy.downscale_delay_s:
        told.append(
            f"downscale_to_zero_delay_s = {policy.downscale_to_zero_delay_s:g} is below downscale_delay_s = "
            f"{policy.downscale_delay_s:g}: the second delay is waited for first where there are several replicas"
        )
    if policy.min_replicas == policy.max_replicas and not policy.schedule:
        told.append(f"min_replicas = max_replicas = {policy.min_replicas}: nothing else in the policy has an effect")
    if policy.upscale_delay_s > policy.stable_window_s:
        told.append(
            f"upscale_delay_s = {policy.upscale_delay_s:g} is longer than stable_window_s = {policy.stable_window_s:g}:"
            " only bursts (panic_threshold) add replicas in time"
        )
    return told


def _show_policy(out: Output, effective: dict[str, Any], given: dict[str, Any]) -> None:
    from clipper.cli.text import scalar

    rows: list[list[Part]] = [
        [(f"  {key}", "bold" if key in given else ""), scalar(value), ("" if key in given else "default", "dim")]
        for key, value in effective.items()
        if key != "schedule"
    ]
    for schedule in effective.get("schedule", ()):
        bounds = f"{schedule['min_replicas']} to {schedule.get('max_replicas', effective['max_replicas'])} replicas"
        zone = schedule.get("timezone", "UTC")
        rows.append([("  schedule", "bold"), f"{schedule['cron']} {zone}", f"{schedule['duration_s']:g} s, {bounds}"])
    out.table(["  KEY", "VALUE", ""], rows)


def apply(function: FunctionArgument, file: PolicyFile, json: Json = False) -> None:
    """Apply a policy file to a running function, now.

    It stays through deploys until the project's own policy changes. To keep it, attach it in clip.toml.
    """
    from clipper.cli.console import OK, Output

    out = Output(json=json)
    policy, table, digest = read_policy(file)
    with connect() as control, _function(control, function) as target:
        result = control.put_policy(target.project, str(target.function), policy.to_dict(), digest)
    if json:
        out.document(result)
        return
    out.line((f"{OK} ", "green"), (str(target), "bold"), f" has the policy of {file.name} from now on")
    _show_policy(out, result["policy"], table)
    out.line((f"  To undo: clip policy reset {target}", "dim"))


def show(function: FunctionArgument, json: Json = False) -> None:
    """Show the policy that a function has now."""
    from clipper.cli.console import Output
    from clipper.cli.text import stamp

    out = Output(json=json)
    with connect() as control, _function(control, function) as target:
        result = control.policy(target.project, str(target.function))
    if json:
        out.document(result)
        return
    applied = result["source"] == "applied"
    source = f"applied {stamp(result['applied_at'])}" if applied else "as deployed"
    out.line((str(target), "bold"), f"  {source}")
    _show_policy(out, result["policy"], _differing(result["policy"]))


def _differing(policy: dict[str, Any]) -> dict[str, Any]:
    from clipper.contract.spec import AutoscalingPolicy

    usual = AutoscalingPolicy().to_dict()
    return {key: value for key, value in policy.items() if value != usual.get(key)}


def reset(function: FunctionArgument, json: Json = False) -> None:
    """Return to the policy that the function was deployed with."""
    from clipper.cli.console import OK, Output

    out = Output(json=json)
    with connect() as control, _function(control, function) as target:
        result = control.delete_policy(target.project, str(target.function))
    if json:
        out.document(result)
    else:
        out.line((f"{OK} ", "green"), (str(target), "bold"), " has the policy again that it was deployed with")


@contextmanager
def _function(control: ControlClient, text: str) -> Iterator[Target]:
    """The function that is meant; a 404 inside leaves with what was probably meant."""
    from clipper.cli.names import known, one_function, parse_target

    given = parse_target(text)
    with known(control, given):
        yield one_function(control, given)


# Explain


def explain(function: FunctionArgument, json: Json = False) -> None:
    """Say why a function has the replicas that it has, and what would change it."""
    from clipper.cli.console import Output

    out = Output(json=json)
    with connect() as control, _function(control, function) as target:
        told = control.decisions(target.project, str(target.function))
    if json:
        out.document(told)
        return
    _explain(out, told)


def _explain(out: Output, told: dict[str, Any]) -> None:
    from clipper.cli.text import ago, plural, stamp

    latest = told.get("latest")
    if latest is None:
        out.line((str(told["function"]), "bold"), f"  {told['no_data']}")
    else:
        wanted = plural(latest["wanted"], "replica")
        out.line((str(told["function"]), "bold"), f"  {wanted}: ", (str(latest["rule"]), "cyan bold"))
        out.line(f"  {latest['why']}", wrap=True)
        out.line((f"  {' → '.join(latest['steps'])}", "dim"), wrap=True)
        inputs = latest["inputs"]
        out.line(
            f"  now: queued {inputs['queued']} · running {inputs['running']} · ready {inputs['ready']} · "
            f"average {inputs['load_stable']:.3g} ({inputs['load_panic']:.3g} lately) · policy {told['source']}, "
            f"decided {ago(latest['at'], time.time())}",
            wrap=True,
        )
        for change in latest["change"]:
            out.line(("  ↳ ", "cyan"), change, wrap=True)
    if not told["changes"]:
        out.line("  The number of replicas has not changed yet.")
        return
    out.line()
    out.table(
        ["  WHEN", "REPLICAS", "RULE", "WHY"],
        [
            [f"  {stamp(c['at'])}", f"{c['before']} → {c['wanted']}", (str(c["rule"]), "cyan"), str(c["why"])]
            for c in told["changes"]
        ],
    )
