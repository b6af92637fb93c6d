"""The parts that need no server: what batching and the cache decide, computed on a simulated clock."""

from __future__ import annotations

import subprocess
import sys

from tests.benchmarks.section import Bench, Section, demoted
from tests.benchmarks.servers import BenchmarkError, ended

__all__ = ["batching_simulated", "caches"]

TIMEOUT_S = 240.0
# On two cores that do nothing else, the full traces take two minutes.
FULL_CACHES_S = 200.0


def batching_simulated(bench: Bench) -> Section:
    """Adaptive batching against none over several model costs."""
    bench.display.step("simulating batching policies")
    return Section(
        title="Adaptive batching, simulated",
        markdown="The real `core.batching` on a simulated clock: Poisson arrivals, one replica.\n\n"
        + _report("adaptive_batching", full=bench.plan.full_simulations, bench=bench),
    )


def caches(bench: Bench) -> Section:
    """Hit ratios of cache policies at equal bytes."""
    full = bench.plan.full_simulations and bench.budget.fits(FULL_CACHES_S)
    bench.display.step("replaying traces on cache policies")
    return Section(
        title="Cache policies",
        markdown="Hit ratios at equal bytes on synthetic traces.\n\n"
        + _report("cache_policies", full=full, bench=bench),
    )


def _report(module: str, *, full: bool, bench: Bench) -> str:
    """What the module prints. In a process of its own: it computes for long, and Ctrl-C must end it at once."""
    argv = [sys.executable, "-m", f"tests.benchmarks.{module}", *(() if full else ("--quick",))]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    limit_s = min(TIMEOUT_S, max(20.0, bench.budget.left_s))
    try:
        output, errors = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{module} took longer than {limit_s:.0f} s") from None
    finally:
        ended(child)
    if child.returncode:
        raise BenchmarkError(f"{module} failed: {errors.decode(errors='replace').strip()[-500:]}")
    return demoted(output.decode().strip(), by=1)
