"""The only wiring: which parts a process gets, made from its settings. Nothing connects before it is first used."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import redis
import structlog
from dramatiq.middleware import Callbacks

from shared.broker.asking import Asking
from shared.broker.breaker import Breaker
from shared.broker.broker import TaskBroker
from shared.broker.connection import impatient_client, patient_client
from shared.broker.engine import Engine
from shared.broker.following import Chains, GroupCalls
from shared.broker.retries import AutoRetries
from shared.broker.scripts import through_pool
from shared.clock import Clock, SystemClock
from shared.errors import SettingsError, StoreUnavailable
from shared.exams.digest_files import FileDigestStore
from shared.exams.disk import Disk
from shared.exams.files import FileExamStore
from shared.exams.register import ExamRegister
from shared.exams.store import DigestStore, ExamStore
from shared.idempotency import IdempotencyKeys
from shared.redis_keys import RedisKeys
from shared.settings import Settings, need
from shared.tasks.catalog import CATALOG, RESERVED
from shared.tasks.connection import connect as connect_tasks
from shared.tasks.deadlines import DeadlineTasks
from shared.tasks.endings import Endings
from shared.tasks.payloads import Payloads
from shared.tasks.routes import Routes
from shared.tasks.sender import TaskSender
from shared.tasks.task import Task

EX_IOERR = 74  # sysexits.h

_log = structlog.get_logger(__name__)


class Services(NamedTuple):
    """What API, worker and scheduler are made of."""

    settings: Settings
    clock: Clock
    redis: "redis.Redis"
    breaker: Breaker
    broker: TaskBroker
    sender: TaskSender
    register: ExamRegister
    exams: ExamStore
    digests: DigestStore
    idempotency: IdempotencyKeys
    payloads: Payloads
    tasks: Mapping[str, Task[..., Any]]


def for_callers(
    settings: Settings, clock: Clock | None = None, tasks: Sequence[Task[..., Any]] = tuple(CATALOG.values())
) -> Services:
    """For the API and the scheduler, where somebody waits for Redis's answer. `clock`: the machine's, unless given."""
    breaker = Breaker()
    client = impatient_client(settings.redis_url)
    keys = RedisKeys(settings.namespace)
    engine = Engine(Asking(through_pool(client), keys, breaker.call), settings.result_keep)
    return _services(settings, clock or SystemClock(), client, keys, breaker, engine, tasks)


def for_worker(
    settings: Settings,
    clock: Clock | None = None,
    tasks: Sequence[Task[..., Any]] = tuple(CATALOG.values()),
    *,
    is_child: bool = False,
) -> Services:
    """For a worker, which waits for Redis; or a child process of one that has had its settings and stores checked."""
    client = patient_client(settings.redis_url)
    keys = RedisKeys(settings.namespace)
    engine = Engine(Asking(through_pool(client), keys), settings.result_keep)
    return _services(settings, clock or SystemClock(), client, keys, Breaker(), engine, tasks, is_child=is_child)


def connect(environ: Mapping[str, str] = os.environ) -> Services:
    """For a program that sends tasks of the catalog: from here on `task.delay(...)` works in this process."""
    services = for_callers(Settings.from_environ(environ))
    connect_tasks(services.sender)
    return services


def routes_of(settings: Settings, tasks: Sequence[Task[..., Any]] = tuple(CATALOG.values())) -> Routes:
    """Which task goes to which queue."""
    return Routes(tasks, settings.routes, RESERVED)


def engine_to_look_at(settings: Settings) -> Engine:
    """For whoever looks at queues again and again, and has other things to do where Redis is away."""
    client = impatient_client(settings.redis_url)
    return Engine(Asking(through_pool(client), RedisKeys(settings.namespace)), settings.result_keep)


def _services(
    settings: Settings,
    clock: Clock,
    client: "redis.Redis",
    keys: RedisKeys,
    breaker: Breaker,
    engine: Engine,
    tasks: Sequence[Task[..., Any]],
    *,
    is_child: bool = False,
) -> Services:
    root = need(settings.store, "STORE")
    if is_child:
        stores = _stores(root, clock)
    else:
        for name in settings.unknown:
            _log.warning("unknown_setting", name=name)
        stores = open_stores(root, clock)
    middleware = [AutoRetries(), Callbacks(), Chains(), GroupCalls(engine)]
    broker = TaskBroker(engine, client, keys, middleware, stores.payloads)
    sender = TaskSender(broker, routes_of(settings, tasks), Endings(client, keys), clock)
    alarm = DeadlineTasks(sender, engine, settings.settle_margin)
    register = ExamRegister(stores.exams, alarm, clock, settings.settle_margin)
    by_name = {task.name: task for task in tasks}
    return Services(settings, clock, client, breaker, broker, sender, register, *stores, by_name)


class Stores(NamedTuple):
    """What lies below one folder."""

    exams: FileExamStore
    digests: FileDigestStore
    idempotency: IdempotencyKeys
    payloads: Payloads


def open_stores(root: str, clock: Clock) -> Stores:
    """Raises SettingsError where the folder cannot be used, or its file system cannot keep the store's promises."""
    stores = _stores(root, clock)
    try:
        for store in stores:
            store.prepare()
    except StoreUnavailable as error:
        raise SettingsError(f"INVIGIL_STORE: {root} cannot be used: {error}") from error
    return stores


def _stores(root: str, clock: Clock) -> Stores:
    disk = Disk(root, halt)
    exams = FileExamStore(disk)
    return Stores(exams, FileDigestStore(disk, exams), IdempotencyKeys(disk, clock), Payloads(disk))


def halt(error: OSError) -> NoReturn:
    """Ends the process at once: what fsync has failed to write must not be answered for, nor tried again."""
    _log.critical("store_io_error", error=str(error))
    os._exit(EX_IOERR)
