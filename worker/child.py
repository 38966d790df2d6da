"""What a child process of a worker does with a job: it runs the body, and says what came of it."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from shared.broker.large_values import lightened_result
from shared.broker.record import check
from shared.broker.retries import RetryLater, is_retried
from shared.broker.runs import TRY_AGAIN_S
from shared.broker.states import Progress, StoredResult, error_of
from shared.errors import Ignore, StoreUnavailable
from shared.logs import configure_logs
from shared.services import Services, for_worker
from shared.settings import Settings
from shared.tasks.connection import connect
from worker.bodies import Body, bodies_of_catalog
from worker.bound_task import BoundTask
from worker.job import (
    CANCELLED,
    PROGRESS,
    YES,
    Done,
    Failed,
    Ignored,
    Job,
    Kept,
    Reply,
    Retry,
    decode_job,
    encode_reply,
)
from worker.running import Bodies
from worker.soft_limit import soft_limit

Ask = Callable[[bytes], bytes]
T = TypeVar("T")

_BODIES = bodies_of_catalog()  # children are forked after this, and share what it has imported


def runner() -> Callable[[bytes, Ask], bytes]:
    """Of the catalog's tasks. Called once in each child."""
    settings = Settings.from_environ(os.environ)
    configure_logs(settings.log_format, "worker-child")
    return ChildRunner(for_worker(settings, is_child=True), _BODIES)


class ChildRunner:
    """Connects to Redis only if a body sends something."""

    def __init__(self, services: Services, bodies: Mapping[str, Body]) -> None:
        self._large = services.payloads
        self._bodies = Bodies(services, bodies)
        connect(services.sender)

    def __call__(self, encoded: bytes, ask: Ask) -> bytes:
        job = decode_job(encoded)
        task = self._bodies.task(job.request.task)
        try:
            reply = self._run(job, ask)
        except RetryLater as wish:
            cause = None if wish.__cause__ is None else error_of(wish.__cause__)
            reply = Retry(wish.delay, cause)
        except Ignore:
            reply = Ignored()
        except BaseException as error:  # noqa: BLE001 - whatever a body raises, SystemExit too, is how it ended
            reply = Failed(error_of(error), is_retried(error, task.autoretry_for))
        return encode_reply(reply)

    def _run(self, job: Job, ask: Ask) -> Reply:
        task = self._bodies.task(job.request.task)
        body = self._bodies.function(task)
        args, kwargs = task.arguments.read(*_patiently(lambda: self._arguments(job)))
        if self._bodies.is_bound(task):
            args.insert(0, _bound(job, ask))
        with soft_limit(None if job.soft_limit_ms is None else job.soft_limit_ms / 1000):
            result = body(*args, **kwargs)
        kept = _patiently(lambda: lightened_result(job.request.id, result, self._large))
        if isinstance(kept, StoredResult):
            return Kept(kept.reference)
        check("result", kept)  # as in a thread; on its way to the worker it would change, or not be sent at all
        return Done(kept)

    def _arguments(self, job: Job) -> tuple[Any, Any]:
        if job.stored is None:
            return job.args, job.kwargs
        args, kwargs = self._large.load_value(job.stored)
        return args, kwargs


def _patiently(call: Callable[[], T]) -> T:
    """Waits for the disk, as a run in a thread does: until the hard limit, or for as long as the worker lets it."""
    while True:
        try:
            return call()
        except StoreUnavailable:
            time.sleep(TRY_AGAIN_S)


def _bound(job: Job, ask: Ask) -> BoundTask:
    def report(progress: Progress) -> None:
        ask(PROGRESS + msgspec.msgpack.encode(progress))

    return BoundTask(job.request, report, lambda: ask(CANCELLED) == YES)
