"""The bodies of the tasks, and that every task has exactly one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest

from shared.broker.interrupts import Revoked, in_child
from shared.errors import Ignore, SettingsError, StoreDamaged, StoreUnavailable
from shared.exams.model import Status
from shared.exams.pk import new_pk
from shared.exams.register import ExamRegister
from shared.services import for_callers, for_worker
from shared.settings import Settings
from shared.tasks import catalog
from shared.tasks.catalog import CATALOG, QUEUES
from shared.tasks.sender import TaskSender
from tests.support.clock import ManualClock
from tests.support.disk import WatchedDisk
from tests.support.exam_files import AlarmLog, a_result, a_start, open_process, present, started
from tests.support.redis_server import PrivateRedis
from tests.support.tasks import TasksInRedis
from tests.support.waiting import eventually
from worker.actors.exams import mark_absent, sweep
from worker.bodies import bodies_of_catalog
from worker.declaring import declare_actors

WITHIN_S = 10


@pytest.fixture
def tasks(redis_server: PrivateRedis) -> TasksInRedis:
    return TasksInRedis(redis_server.client())


@pytest.fixture
def sender(tmp_path: Path, redis_server: PrivateRedis) -> Iterator[TaskSender]:
    """Sends to where `tasks` looks."""
    services = for_callers(_settings(tmp_path, REDIS_URL=redis_server.url))
    yield services.sender
    services.redis.close()


@pytest.fixture
def register(tmp_path: Path, clock: ManualClock) -> ExamRegister:
    return open_process(WatchedDisk(tmp_path), clock).register


def sent(tasks: TasksInRedis) -> list[str]:
    """The names of the tasks that wait in the queue of exams, for a worker or for their time."""
    messages = [*tasks.ready("exams"), *(message for message, _ in tasks.due("exams"))]
    return [message.actor_name for message in messages]


class ScriptedRegister(ExamRegister):
    """A register whose sweeps are played: each answers whether work is left, once it is let go."""

    def __init__(self, *answers: bool | Exception) -> None:
        self._answers = list(answers)
        self.sweeps = 0
        self.has_begun = Event()
        self.may_end = Event()
        self.may_end.set()

    def sweep(self) -> bool:
        self.sweeps += 1
        self.has_begun.set()
        assert self.may_end.wait(WITHIN_S)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


# the catalog


def test_every_task_has_exactly_one_body() -> None:
    """No task without a body, no body without a task, no name twice."""
    assert {name: body.task for name, body in bodies_of_catalog().items()} == CATALOG


FOR_EXAMS = {"mark_absent", "sweep"}
FOR_OTHERS = set(CATALOG) - FOR_EXAMS  # a call may send each of them to any queue but that of the exams


@pytest.mark.parametrize(
    ("queues", "names"),
    [
        (QUEUES, set(CATALOG)),
        (("exams",), FOR_EXAMS),
        (("default", "mail"), FOR_OTHERS),
        (("default",), FOR_OTHERS),
    ],
)
def test_a_worker_declares_the_tasks_that_may_come_by_its_queues_and_no_others(
    tmp_path: Path, queues: tuple[str, ...], names: set[str]
) -> None:
    """Each as the catalog says: queue, priority, limits; and that a run may be revoked is not taken for a failure."""
    services = for_worker(_settings(tmp_path))
    declare_actors(services, bodies_of_catalog(), queues)
    declared = {
        name: (actor.queue_name, actor.priority, {**actor.options, "in_child": None})
        for name, actor in services.broker.actors.items()
    }
    assert declared == {
        name: (
            task.queue,
            -task.priority,
            {
                "together": task.together,
                "time_limit": task.time_limit and task.time_limit.total_seconds() * 1000,
                "in_child": None,
                "autoretry_for": task.autoretry_for,
                "max_retries": task.max_retries,
                "min_backoff": task.min_backoff.total_seconds() * 1000,
                "max_backoff": task.max_backoff.total_seconds() * 1000,
                "throws": (Ignore, Revoked),
            }
            | ({} if task.keep is None else {"result_ttl": task.keep.total_seconds() * 1000}),
        )
        for name, task in CATALOG.items()
        if name in names
    }


@pytest.mark.parametrize(
    ("name", "by_itself", "with_a_limit"),
    [("mark_absent", False, None), ("sweep", False, None), ("send_digest", True, True), ("print_message", False, True)],
)
def test_a_task_runs_in_a_child_process_if_it_has_a_limit_or_its_call_has(
    tmp_path: Path, name: str, by_itself: bool, with_a_limit: bool | None
) -> None:
    """None: no call of it may have one."""
    services = for_worker(_settings(tmp_path))
    declare_actors(services, bodies_of_catalog(), QUEUES)
    actor = services.broker.actors[name]
    assert in_child(actor.options, actor.message()) is by_itself
    if with_a_limit is not None:
        assert in_child(actor.options, actor.message_with_options(soft_time_limit=5)) is with_a_limit
        assert in_child(actor.options, actor.message_with_options(time_limit=5)) is with_a_limit


def test_rules_of_the_settings_move_a_task_to_another_queue(tmp_path: Path) -> None:
    """Its worker is the one of that queue; what is reserved for exams stays where it is."""
    services = for_worker(_settings(tmp_path, ROUTES="print_*=slow,mark_*=slow,sweep=slow"))
    declare_actors(services, bodies_of_catalog(), ["slow"])
    homes = {name: actor.queue_name for name, actor in services.broker.actors.items()}
    assert homes == {name: CATALOG[name].queue for name in FOR_OTHERS} | {"print_message": "slow"}


@pytest.mark.parametrize("missing", ["MAIL_URL", "MAIL_FROM", "MAIL_TO"])
def test_a_worker_for_mail_needs_to_know_where_it_goes(tmp_path: Path, missing: str) -> None:
    """The setting is named; a worker of other queues can do without."""
    settings = _settings(tmp_path, without=missing)
    with pytest.raises(SettingsError, match=f"INVIGIL_{missing}"):
        declare_actors(for_worker(settings), bodies_of_catalog(), ["mail"])
    declare_actors(for_worker(settings), bodies_of_catalog(), ["exams", "default"])


# mark_absent


@pytest.mark.parametrize("margin_s", [0, 0.5])
def test_an_exam_becomes_absent_at_its_deadline(
    tmp_path: Path, clock: ManualClock, sender: TaskSender, tasks: TasksInRedis, margin_s: float
) -> None:
    """As of the deadline itself, once the margin has passed."""
    margin = timedelta(seconds=margin_s)
    register = _register(tmp_path, clock, margin)
    (exam,) = started(register, a_start(seconds=120))
    clock.move(seconds=120 + margin_s)
    mark_absent(register, sender, margin)([exam.pk])
    ended = register.read(exam.pk)
    assert (ended.status, ended.ended_at) == (Status.ABSENT, exam.deadline_at)
    assert (clock.waits, sent(tasks)) == ([], [])


@pytest.mark.parametrize("early_ms", [1, 999, 2000])
def test_a_task_that_is_a_little_early_waits(
    register: ExamRegister, clock: ManualClock, sender: TaskSender, tasks: TasksInRedis, early_ms: int
) -> None:
    """Up to two seconds, exactly until the deadline: clocks of hosts differ."""
    (exam,) = started(register, a_start(seconds=120))
    clock.set(exam.deadline_at - timedelta(milliseconds=early_ms))
    mark_absent(register, sender, timedelta())([exam.pk])
    assert clock.waits == [timedelta(milliseconds=early_ms)]
    assert register.read(exam.pk).status is Status.ABSENT
    assert sent(tasks) == []


def test_a_task_that_is_much_too_early_sends_itself_again(
    tmp_path: Path, sender: TaskSender, tasks: TasksInRedis
) -> None:
    """Under the same id, due at deadline and margin; the exam goes on."""
    clock, margin = present(), timedelta(seconds=0.5)
    register = _register(tmp_path, clock, margin)
    (exam,) = started(register, a_start(seconds=120))
    clock.set(exam.deadline_at + margin - timedelta(milliseconds=2001))
    mark_absent(register, sender, margin)([exam.pk])
    assert (clock.waits, register.read(exam.pk).status) == ([], Status.STARTED)
    ((again, due_at),) = tasks.due("exams")
    assert (again.actor_name, again.args, again.message_id) == (catalog.mark_absent.name, (exam.pk,), exam.task_id)
    assert due_at == exam.deadline_at + margin


def test_a_decided_exam_stays_as_it_is(
    register: ExamRegister, clock: ManualClock, sender: TaskSender, tasks: TasksInRedis
) -> None:
    """A task that runs all the same, or twice, changes nothing."""
    (exam,) = started(register, a_start(seconds=120))
    (passed,) = register.record_results([a_result(exam.pk, clock.now())])
    clock.move(seconds=121)
    for _ in range(2):
        mark_absent(register, sender, timedelta())([exam.pk])
    assert register.read(exam.pk) == passed
    assert (clock.waits, sent(tasks)) == ([], [])


def test_the_task_of_an_exam_that_never_started_does_nothing(
    register: ExamRegister, clock: ManualClock, sender: TaskSender, tasks: TasksInRedis
) -> None:
    """Its start was given up after the task had been sent: no error that would be tried again."""
    mark_absent(register, sender, timedelta())([new_pk(clock.now())])
    assert (clock.waits, sent(tasks)) == ([], [])


def test_many_are_settled_together_each_by_its_own_deadline(
    tmp_path: Path, sender: TaskSender, tasks: TasksInRedis
) -> None:
    """Overdue, early by up to two seconds, decided, unknown and much too early: one wait, and all are seen to."""
    clock = present()
    register = _register(tmp_path, clock, timedelta())
    overdue, soon, sooner, passed, far = started(
        register, *[a_start(seconds=seconds) for seconds in (119, 121, 120.5, 120, 3600)]
    )
    register.record_results([a_result(passed.pk, clock.now())])
    clock.move(seconds=120)
    mark_absent(register, sender, timedelta())([far.pk, overdue.pk, new_pk(clock.now()), soon.pk, passed.pk, sooner.pk])
    assert clock.waits == [timedelta(seconds=1)]
    assert [register.read(exam.pk).ended_at for exam in (overdue, soon, sooner)] == [
        exam.deadline_at for exam in (overdue, soon, sooner)
    ]
    assert [register.read(exam.pk).status for exam in (passed, far)] == [Status.PASS, Status.STARTED]
    assert [(message.message_id, due_at) for message, due_at in tasks.due("exams")] == [(far.task_id, far.deadline_at)]


def test_a_damaged_exam_keeps_none_of_the_others_from_its_end(
    tmp_path: Path, register: ExamRegister, clock: ManualClock, sender: TaskSender, tasks: TasksInRedis
) -> None:
    """Those are decided; that one of them could not be is an error, so that they are tried again, each by itself."""
    *exams, damaged = started(register, *[a_start(seconds=120)] * 3)
    next(tmp_path.rglob(f"{damaged.pk}.1")).write_text("{")
    clock.move(seconds=120)
    with pytest.raises(StoreDamaged, match=damaged.pk):
        mark_absent(register, sender, timedelta())([damaged.pk, *(exam.pk for exam in exams)])
    assert [register.read(exam.pk).status for exam in exams] == [Status.ABSENT] * 2
    assert sent(tasks) == []


# sweep


def test_a_sweep_sends_itself_again_while_work_is_left(
    sender: TaskSender, tasks: TasksInRedis, clock: ManualClock
) -> None:
    """At once and only then, so that a backlog ends in minutes and an idle system stays idle."""
    register = ScriptedRegister(True, False)
    body = sweep(register, sender, clock)
    body()
    assert sent(tasks) == [catalog.sweep.name]
    body()
    assert sent(tasks) == [catalog.sweep.name]


def test_a_sweep_runs_one_at_a_time(sender: TaskSender, tasks: TasksInRedis, clock: ManualClock) -> None:
    """A second one beside it returns at once and leaves the work to the first."""
    register = ScriptedRegister(False, False)
    register.may_end.clear()
    body = sweep(register, sender, clock)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(body)
        assert register.has_begun.wait(WITHIN_S)
        body()
        assert (register.sweeps, sent(tasks)) == (1, [])
        register.may_end.set()
        first.result(WITHIN_S)
    body()
    assert register.sweeps == 2


def test_a_sweep_that_fails_does_not_stop_the_next(sender: TaskSender, tasks: TasksInRedis, clock: ManualClock) -> None:
    """The store was out of reach once."""
    register = ScriptedRegister(StoreUnavailable("no"), False)
    body = sweep(register, sender, clock)
    with pytest.raises(StoreUnavailable):
        body()
    body()
    assert (register.sweeps, sent(tasks)) == (2, [])


def test_a_sweep_that_never_came_back_does_not_stop_later_ones(sender: TaskSender, clock: ManualClock) -> None:
    """As when its time limit ended it between two lines: after that limit the next one runs."""
    register = ScriptedRegister(False, False)
    register.may_end.clear()
    body = sweep(register, sender, clock)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(body)
        assert register.has_begun.wait(WITHIN_S)
        clock.move(seconds=catalog.SWEPT_WITHIN.total_seconds())
        second = pool.submit(body)
        eventually(lambda: register.sweeps == 2, WITHIN_S, "the second sweep")
        register.may_end.set()
        first.result(WITHIN_S)
        second.result(WITHIN_S)


def _register(folder: Path, clock: ManualClock, margin: timedelta) -> ExamRegister:
    process = open_process(WatchedDisk(folder), clock)
    return ExamRegister(process.exams, AlarmLog(), clock, margin)


def _settings(folder: Path, without: str = "", **more: str) -> Settings:
    environ = {
        "STORE": f"file://{folder}/store",
        "MAIL_URL": f"maildir://{folder}/mail",
        "MAIL_FROM": "invigil@example.org",
        "MAIL_TO": "dean@example.org",
        **more,
    }
    return Settings.from_environ({f"INVIGIL_{name}": value for name, value in environ.items() if name != without})
