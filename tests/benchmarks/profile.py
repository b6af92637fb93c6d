"""Where the gateway and a replica spend their time under load, as py-spy sees it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.benchmarks import wrk
from tests.benchmarks.ours import endpoint, platform, replica_pids
from tests.benchmarks.section import Bench, Section, table
from tests.benchmarks.servers import BenchmarkError, Endpoint, ended

__all__ = ["profile"]

CONNECTIONS = 64
SAMPLES_PER_S = 400
TOP = 10


def profile(bench: Bench) -> Section:
    """Two recordings of the gateway under load (a flame graph, and stacks to count), one of the replica."""
    spy = _spy()
    seconds = bench.plan.profile_s
    bench.display.step("starting Clipper")
    with platform(bench.work / "profile", "total") as running:
        if running.process is None:
            raise BenchmarkError("the platform ended")
        target = endpoint(running, "total/total")
        wrk.check(target, seconds=bench.plan.warm_s)
        gateway, replica = running.process.pid, replica_pids(running, "total/total")[0]
        drawn, stacks = bench.work / "flames.svg", bench.work / "stacks.txt"
        bench.display.step("recording the gateway")
        _record(spy, gateway, "flamegraph", drawn, target, seconds)
        _record(spy, gateway, "raw", stacks, target, seconds)
        tables = ["The gateway's event loop:", _table(stacks)]
        bench.display.step("recording the replica")
        _record(spy, replica, "raw", stacks, target, seconds)
        tables += ["The replica:", _table(stacks)]
    return Section(
        title="Profile",
        markdown=f"py-spy at {SAMPLES_PER_S} samples per second while {CONNECTIONS} connections ask for sums. Shares "
        "of the samples in which the process ran Python (waiting, and reading from sockets, are not in them): in the "
        "function itself, and in it or what it calls. The whole picture of the gateway: "
        "[gateway-flames.svg](gateway-flames.svg).\n\n" + "\n\n".join(tables),
        files={"gateway-flames.svg": _titled(drawn.read_text())},
    )


def _titled(drawn: str) -> str:
    """py-spy's title is its command line, with the paths of this machine."""
    title = f"The gateway at {CONNECTIONS} connections"
    return re.sub(r'(<text id="title"[^>]*>)[^<]*', lambda found: found[1] + title, drawn, count=1)


def _spy() -> str:
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise BenchmarkError("py-spy is not installed")
    return found


def _record(spy: str, pid: int, form: str, into: Path, target: Endpoint, seconds: int) -> None:
    """Record while wrk loads the target. Raises BenchmarkError."""
    argv = [spy, "record", "--pid", str(pid), "--format", form, "--output", str(into)]
    # Only the thread that holds the interpreter's lock: pool threads that wait would otherwise count as working.
    argv += ["--duration", str(seconds), "--rate", str(SAMPLES_PER_S), "--gil"]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wrk.measure(target, connections=CONNECTIONS, seconds=seconds + 1)
        output = child.communicate(timeout=30)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        raise BenchmarkError("py-spy did not end") from None
    finally:
        ended(child)
    if child.returncode or not into.exists():
        raise BenchmarkError(f"py-spy could not look into the process: {output.strip()[-300:]}")


def _table(stacks: Path) -> str:
    """The functions that the process was in most often. A line of the file: `frame;frame;… samples`."""
    own, inclusive, total = Counter[str](), Counter[str](), 0
    for line in stacks.read_text().splitlines():
        frames, _, samples = line.rpartition(" ")
        names = [_function(frame) for frame in frames.split(";") if not frame.startswith(("process ", "thread "))]
        if not names:
            continue
        total += int(samples)
        own[names[-1]] += int(samples)
        inclusive.update(dict.fromkeys(names, int(samples)))
    if not total:
        raise BenchmarkError("py-spy saw nothing")
    rows = [
        [f"`{name}`", f"{samples / total:.1%}", f"{inclusive[name] / total:.1%}"]
        for name, samples in own.most_common(TOP)
    ]
    return table(["function", "itself", "with what it calls"], rows)


def _function(frame: str) -> str:
    """`submit (clipper_platform/serving/queue.py:113)` → `submit (serving/queue.py)`: lines apart say too little."""
    name, _, place = frame.partition(" (")
    path = place.rpartition(":")[0] or place.rstrip(")")
    return f"{name} ({'/'.join(Path(path).parts[-2:])})"
