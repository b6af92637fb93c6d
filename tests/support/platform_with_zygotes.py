"""A platform's process for tests that kill it: a zygote, its spare child, two replicas forked from it and a template
with one. Prints the pids of the zygote, the template and the replicas, then waits.

Argument: the home directory.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from clipper.contract.spec import FunctionSpec
from tests.support.replicas import Recorder, launch_spec, process_backend
from tests.support.waiting import until

APP = """
import time

def hang() -> None:
    time.sleep(600)
"""


async def main(home: Path) -> None:
    backend = process_backend(home, warm_pool_size=1)
    await backend.open()
    (home / "bundle").mkdir(exist_ok=True)
    (home / "environment").mkdir(exist_ok=True)
    (home / "bundle" / "app.py").write_text(APP)

    async def launch(**options: bool) -> int:
        spec = FunctionSpec.parse("hang", "app:hang", options).to_dict()
        replica = await backend.launch(launch_spec(home, spec=spec))
        replica.attach(Recorder())
        return int(replica.details["pid"])

    await launch()
    await until(lambda: any(zygote.usable for zygote in backend.zygotes.running))
    pids = [await launch(), await launch(), await launch(snapshot=True)]
    await until(lambda: all(zygote.spare_pid is not None for zygote in backend.zygotes.running))
    print(backend.instance_id, *[zygote.pid for zygote in backend.zygotes.running], *pids, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
