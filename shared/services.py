"""The only wiring: which parts a process gets, made from its settings. Nothing connects before it is first used."""

import os
from typing import NamedTuple, NoReturn

import redis
import structlog
from dramatiq.middleware import Retries

from shared.broker.asking import Asking
from shared.broker.breaker import Breaker
from shared.broker.broker import TaskBroker
from shared.broker.connection import impatient_client, patient_client
from shared.broker.engine import Engine
from shared.broker.scripts import through_pool
from shared.clock import Clock, SystemClock
from shared.errors import SettingsError, StoreUnavailable
from shared.exams.digest_files import FileDigestStore
from shared.exams.disk import Disk
from shared.exams.files import FileExamStore
from shared.exams.register import ExamRegister
from shared.exams.store import DigestStore, ExamStore
from shared.redis_keys import RedisKeys
from shared.settings import Settings, need
from shared.tasks.deadlines import DeadlineTasks
from shared.tasks.sender import TaskSender

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
    exams: ExamStore
    digests: DigestStore
    register: ExamRegister


def for_callers(settings: Settings, clock: Clock | None = None) -> Services:
    """For the API and the scheduler, where somebody waits for Redis's answer. `clock`: the machine's, unless given."""
    breaker = Breaker()
    client = impatient_client(settings.redis_url)
    keys = RedisKeys(settings.namespace)
    broker = TaskBroker(Engine(Asking(through_pool(client), keys, breaker.call), settings.result_keep), client, keys)
    return _services(settings, clock or SystemClock(), client, breaker, broker)


def for_worker(settings: Settings, clock: Clock | None = None) -> Services:
    """For a worker, which waits for Redis."""
    client = patient_client(settings.redis_url)
    keys = RedisKeys(settings.namespace)
    broker = TaskBroker(Engine(Asking(through_pool(client), keys), settings.result_keep), client, keys, [Retries()])
    return _services(settings, clock or SystemClock(), client, Breaker(), broker)


def _services(
    settings: Settings, clock: Clock, client: "redis.Redis", breaker: Breaker, broker: TaskBroker
) -> Services:
    for name in settings.unknown:
        _log.warning("unknown_setting", name=name)
    sender = TaskSender(broker)
    exams, digests = open_stores(need(settings.store, "STORE"))
    alarm = DeadlineTasks(sender, broker.engine, settings.settle_margin)
    register = ExamRegister(exams, alarm, clock, settings.settle_margin)
    return Services(settings, clock, client, breaker, broker, sender, exams, digests, register)


def open_stores(root: str) -> tuple[FileExamStore, FileDigestStore]:
    """Raises SettingsError where the folder cannot be used, or its file system cannot keep the store's promises."""
    disk = Disk(root, halt)
    exams = FileExamStore(disk)
    digests = FileDigestStore(disk, exams)
    try:
        exams.prepare()
        digests.prepare()
    except StoreUnavailable as error:
        raise SettingsError(f"INVIGIL_STORE: {root} cannot be used: {error}") from error
    return exams, digests


def halt(error: OSError) -> NoReturn:
    """Ends the process at once: what fsync has failed to write must not be answered for, nor tried again."""
    _log.critical("store_io_error", error=str(error))
    os._exit(EX_IOERR)
