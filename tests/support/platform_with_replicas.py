"""A platform's process for tests that kill it: launches replicas with grandchildren, prints their pids, then waits.

Arguments: the home directory, and how many replicas.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.support.replicas import FAKE_REPLICA, Recorder, ask, invoke, launch_spec, process_backend


async def main(home: Path, replicas: int) -> None:
    backend = process_backend(home, command=FAKE_REPLICA)
    await backend.open()
    pids = []
    for _ in range(replicas):
        replica, recorder = await backend.launch(launch_spec(home)), Recorder()
        replica.attach(recorder)
        pids += [replica.details["pid"], *map(int, await ask(replica, recorder, b"spawn:", b"spawn:session"))]
        # Busy from now on: it does not see the end of its connection.
        replica.channel.send_invoke(invoke(b"hang"), [b"hang"])
    print(backend.instance_id, *pids, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
