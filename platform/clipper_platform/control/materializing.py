"""Computes answers beforehand: rows of stored jobs run through the function's own queue, beside live calls.

A job's rows and their answers are in the store, so that whoever ends, the client or this platform, the job goes on
where it was: only rows that were running are run again. How much runs is decided by `core.background`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from clipper_platform.clock import Clock
from clipper_platform.control.row_answers import RowRunner
from clipper_platform.core.background import allowance
from clipper_platform.errors import ClipperError, Conflict, InvalidRequest, NotFound
from clipper_platform.metrics import Metrics
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.store.materialized_index import Generation, GenerationIndex
from clipper_platform.store.materialized_records import Job, RowFailure, RowResult, StalePolicy
from clipper_platform.types import FunctionId

__all__ = ["JobStore", "Materializer"]

logger = logging.getLogger(__name__)

BUFFER_ROWS: Final = 2000  # read from the store at once
POLL_S: Final = 0.01  # between looks for room beside live calls
WAIT_S: Final = 0.5  # for replicas, or for the version to be restored
KEPT_VERSIONS: Final = 3  # whose answers are kept: the one that answers, and those that a rollback leads to
FOR_EVER: Final = 1e18  # an answer without a lifetime expires then, in Unix seconds


class JobStore(Protocol):
    """`store.materialized.MaterializedStore`."""

    @property
    def index(self) -> GenerationIndex: ...
    async def begin(
        self,
        path: str,
        version: int,
        identity: str,
        source: str,
        *,
        ttl_s: float | None,
        stale: StalePolicy,
        now: float,
    ) -> Job: ...
    async def add_rows(self, id: str, at: int, bodies: Sequence[bytes]) -> Job: ...
    async def complete(self, id: str) -> Job: ...
    async def end(self, id: str, now: float, *, reason: str = "") -> Job: ...
    async def jobs(self) -> list[Job]: ...
    async def job(self, id: str) -> Job: ...
    async def failures(self, id: str, after: int, limit: int) -> list[RowFailure]: ...
    async def pending(self, id: str, after: int, limit: int) -> list[tuple[int, bytes]]: ...
    async def generation(self, job: Job) -> Generation: ...
    async def record(self, id: str, generation: Generation, results: Sequence[RowResult], expires_at: float) -> Job: ...
    async def forget(self, generation: Generation) -> None: ...
    async def forget_project(self, project: str) -> None: ...


class Materializer:
    """One task for each open job."""

    def __init__(
        self,
        store: JobStore,
        *,
        version_of: Callable[[str], tuple[int, str] | None],
        exists: Callable[[str], bool],
        dispatcher: Dispatcher,
        clock: Clock,
        metrics: Metrics,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`version_of`: the version that answers a project's calls and its identity, None where none does; `exists`:
        whether there is the project at all."""
        self._store = store
        self._version_of = version_of
        self._exists = exists
        self._dispatcher = dispatcher
        self._clock = clock
        self._metrics = metrics
        self._sleep = sleep
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._news: dict[str, asyncio.Event] = {}  # by job: rows came, or all of them
        self._forgetting: set[asyncio.Task[None]] = set()
        self.waiting: dict[str, str] = {}  # by job: why nothing of it runs now

    async def open(self) -> None:
        """Go on with the jobs that are open, and forget what is kept of projects that are gone."""
        jobs = await self._store.jobs()
        for project in {path.partition("/")[0] for path in (*self._store.index.paths(), *(job.path for job in jobs))}:
            if not self._exists(project):
                await self._store.forget_project(project)
        for job in await self._store.jobs():
            if job.open:
                self._work_on(job)

    async def close(self) -> None:
        tasks = [*self._tasks.values(), *self._forgetting]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # What clients ask for

    async def begin(self, path: str, source: str, *, ttl_s: float | None, stale: StalePolicy) -> Job:
        """A job for the version that answers `project/function` now, or the open one with the same source.

        Raises NotFound, and InvalidRequest for a function that streams.
        """
        queue = self._dispatcher.resolve(path)
        id, identity = queue.target.id, queue.target.identity
        if queue.streaming:
            raise InvalidRequest(f"{id.path} streams its answers: they cannot be computed beforehand")
        job = await self._store.begin(
            id.path, id.version, identity, source, ttl_s=ttl_s, stale=stale, now=self._clock.time()
        )
        self._work_on(job)
        return job

    async def add_rows(self, id: str, at: int, bodies: Sequence[bytes]) -> Job:
        """Raises NotFound, and Conflict where rows are missing before `at`."""
        try:
            job = await self._store.add_rows(id, at, bodies)
        except ValueError as error:
            raise Conflict(str(error)) from None
        self._tell(id)
        return job

    async def complete(self, id: str) -> Job:
        job = await self._store.complete(id)
        self._tell(id)
        return job

    async def cancel(self, id: str) -> Job:
        """Stop it; the answers that it has computed stay. Raises NotFound."""
        if (task := self._tasks.get(id)) is not None:
            task.cancel()
            await asyncio.wait({task})
        return await self._store.end(id, self._clock.time(), reason="cancelled")

    async def job(self, id: str) -> Job:
        return await self._store.job(id)

    async def jobs(self) -> list[Job]:
        return await self._store.jobs()

    async def failures(self, id: str, after: int, limit: int) -> list[RowFailure]:
        return await self._store.failures(id, after, limit)

    def forget(self, project: str) -> None:
        """The project was deleted: its jobs end and its answers go, in the background."""
        task = asyncio.create_task(self._forget(project), name=f"forget the answers of {project}")
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    async def _forget(self, project: str) -> None:
        try:
            for job in await self._store.jobs():
                if job.open and job.path.startswith(f"{project}/"):
                    await self.cancel(job.id)
            await self._store.forget_project(project)
        except ClipperError as error:
            logger.warning("the answers of project %s are not deleted yet: %s", project, error.message)

    # The work

    def _work_on(self, job: Job) -> None:
        if job.id not in self._tasks:
            self._news[job.id] = asyncio.Event()
            task = self._tasks[job.id] = asyncio.create_task(self._work(job), name=f"materialize {job.path}")
            task.add_done_callback(lambda _: self._ended(job.id))

    def _ended(self, id: str) -> None:
        for known in (self._tasks, self._news, self.waiting):
            known.pop(id, None)

    def _tell(self, id: str) -> None:
        if (news := self._news.get(id)) is not None:
            news.set()

    async def _work(self, job: Job) -> None:
        project, _, function = job.path.partition("/")
        runner = RowRunner(self._dispatcher, FunctionId(project, function, job.version))
        while job.open:
            try:
                job = await self._go_on(job, runner)
            except ClipperError as error:
                self.waiting[job.id] = error.message
                await self._sleep(WAIT_S)
            except Exception:
                logger.exception("a round of the materialization of %s failed", job.path)
                self._metrics.loop_errors.child("materializer").inc()
                await self._sleep(WAIT_S)

    async def _go_on(self, job: Job, runner: RowRunner) -> Job:
        """Compute the rows that are there; wait for others, or end the job. Returns what it is then."""
        news = self._news[job.id]
        news.clear()
        job = await self._store.job(job.id)
        if not job.open:
            return job
        if reason := self._outdated(job):
            return await self._store.end(job.id, self._clock.time(), reason=reason)
        after = -1
        while rows := await self._store.pending(job.id, after, BUFFER_ROWS):
            await self._compute(job, runner, rows)
            after = rows[-1][0]
        job = await self._store.job(job.id)
        if job.pending:  # some came meanwhile, or could not run
            return job
        if job.state == "running":
            job = await self._store.end(job.id, self._clock.time())
            for old in self._store.index.beyond(job.path, KEPT_VERSIONS):
                await self._store.forget(old)
            return job
        await news.wait()
        return job

    def _outdated(self, job: Job) -> str:
        """Why the job cannot be finished: its version answers no longer."""
        project = job.path.partition("/")[0]
        current = self._version_of(project)
        if current is None:
            return "" if self._exists(project) else f"project {project} was deleted"
        if current != (job.version, job.identity):
            return f"version {job.version} was replaced by version {current[0]}: materialize again"
        return ""

    async def _compute(self, job: Job, runner: RowRunner, rows: Sequence[tuple[int, bytes]]) -> None:
        """Compute these rows in waves. Each is recorded before the next one begins: what an end of the platform makes
        run again is one wave at most."""
        generation = await self._store.generation(job)
        self._dispatcher.materialized_changed(job.path)
        expires_at = FOR_EVER if job.ttl_s is None else self._clock.time() + job.ttl_s
        begun = 0
        while begun < len(rows):
            n = await self._room(job, runner)
            wave = rows[begun : begun + n]
            begun += len(wave)
            found = await asyncio.gather(*(runner.run(number, body) for number, body in wave))
            runner.looks.batch_ended = self._clock.monotonic()
            results = [result for result in found if result is not None]
            await asyncio.shield(self._store.record(job.id, generation, results, expires_at))
            for result in results:
                self._metrics.materialized_rows.child(job.path, "failed" if result.code else "done").inc()
            if runner.trouble:
                self.waiting[job.id], runner.trouble = runner.trouble, ""
                await self._sleep(WAIT_S)

    async def _room(self, job: Job, runner: RowRunner) -> int:
        """How many rows may run now; waits until some may."""
        while True:
            queue = self._dispatcher.queue(runner.id)
            if queue is None:
                if reason := self._outdated(job):
                    raise NotFound(reason)
                self.waiting[job.id] = "the version does not run yet"
                await self._sleep(WAIT_S)
            elif not queue.endpoints.by_id:
                self.waiting[job.id] = queue.no_capacity or "a replica is starting"
                return 1  # the call starts one
            elif n := allowance(runner.looks.load(queue, self._clock.monotonic())):
                self.waiting.pop(job.id, None)
                return n
            else:
                await self._sleep(POLL_S)
