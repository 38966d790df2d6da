"""`python -m worker` as its container runs it: start, end, death, and what its console shows."""

import signal
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from shared.broker.states import State
from shared.exams.model import Ended
from shared.services import Services, for_callers
from shared.settings import Settings
from shared.tasks import catalog
from shared.tasks.call import CallOptions
from tests.support.exam_files import a_start, started
from tests.support.parts import Part, run, settings_of
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually
from worker.__main__ import main

MESSAGES = [f"message {n} – für Ольга" for n in range(8)]
RECOVERED_WITHIN_S = 25  # the lease's 10 s, a look a second, a start, and a machine that is busy


@pytest.fixture
def environ(tmp_path: Path, own_redis: PrivateRedis) -> dict[str, str]:
    return settings_of(tmp_path, own_redis.url)


@pytest.fixture
def caller(environ: dict[str, str]) -> Iterator[Services]:
    """What sends to these workers, as an API process would."""
    services = for_callers(Settings.from_environ(environ))
    yield services
    services.redis.close()


def worker(folder: Path, queues: str, environ: dict[str, str]) -> Part:
    return Part(folder / queues, "worker", "--queues", queues, environ=environ)


def test_a_worker_finishes_what_it_runs_when_told_to_end(
    tmp_path: Path, environ: dict[str, str], caller: Services
) -> None:
    """SIGTERM amidst a message: it is printed, exactly and alone on standard output; status 0 within seconds."""
    environ["INVIGIL_MESSAGE_SECONDS"] = "1"
    with worker(tmp_path, "default", environ) as part:
        part.wait_for_log("worker_started")
        wait_until_begun(caller, [caller.sender.send(catalog.print_message, MESSAGES[0])])
        assert part.end() == 0
        assert part.output() == f"{MESSAGES[0]}\n"
        assert MESSAGES[0] not in part.errors()


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.soak)])
def test_a_worker_told_to_drain_ends_what_it_runs_and_takes_nothing_more(
    tmp_path: Path, environ: dict[str, str], caller: Services, seconds: float
) -> None:
    """SIGUSR1 while one message is in a thread and one in a child process: both are printed, the next one waits."""
    environ["INVIGIL_MESSAGE_SECONDS"] = str(seconds)
    in_child, within_s = CallOptions(time_limit=2 * seconds), seconds + 10
    with worker(tmp_path, "default", environ) as part:
        part.wait_for_log("worker_started")
        ids = [
            caller.sender.send(catalog.print_message, MESSAGES[0]),
            caller.sender.apply_async(catalog.print_message, [MESSAGES[1]], options=in_child).id,
        ]
        wait_until_begun(caller, ids)
        part.signal(signal.SIGUSR1)
        drained_at = (tmp_path / "pulse").stat().st_mtime
        eventually(lambda: (tmp_path / "pulse").stat().st_mtime > drained_at + 1, what="beats while it drains")
        waiting = caller.sender.send(catalog.print_message, MESSAGES[2])
        assert part.wait(within_s) == 0
        assert sorted(part.output().splitlines()) == sorted(MESSAGES[:2])
        assert "given_back" not in part.errors()
    states = [caller.broker.engine.look_up(task_id) for task_id in (*ids, waiting)]
    assert [(each.state, each.deliveries) for each in states] == [
        (State.SUCCESS, 1),
        (State.SUCCESS, 1),
        (State.PENDING, 0),
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_an_idle_worker_beats_and_ends_cleanly(tmp_path: Path, environ: dict[str, str], number: signal.Signals) -> None:
    """Its pulse shows while it runs; after any of the signals it says nothing more and ends with status 0."""
    with worker(tmp_path, "exams,default,mail", environ) as part:
        eventually((tmp_path / "pulse").exists, 20, "the first pulse")
        assert run("shared.pulse", "10", environ=environ).returncode == 0
        assert part.end(number) == 0
        assert "Traceback" not in part.errors()


def test_eight_messages_hold_no_deadline_up(tmp_path: Path, environ: dict[str, str], caller: Services) -> None:
    """They fill every thread of their own worker for 30 s; an exam of 1 s ends at its time in the other."""
    environ["INVIGIL_MESSAGE_SECONDS"] = "30"
    with worker(tmp_path, "default,mail", environ) as messages, worker(tmp_path, "exams", environ) as exams:
        for part in (messages, exams):
            part.wait_for_log("worker_started")
        wait_until_begun(caller, [caller.sender.send(catalog.print_message, message) for message in MESSAGES])
        (exam,) = started(caller.register, a_start(seconds=1))
        ended = eventually(lambda: stored_end(caller, exam.pk), what="the exam's end")
        assert ended is not None
        assert ended.recorded_at - exam.deadline_at < timedelta(seconds=3)
        assert messages.output() == ""


def test_a_message_of_a_killed_worker_runs_again_in_another(
    tmp_path: Path, environ: dict[str, str], caller: Services
) -> None:
    """`kill -9` amidst it: it is handed to a worker that lives, and printed there."""
    with worker(tmp_path, "default", environ | {"INVIGIL_MESSAGE_SECONDS": "600"}) as killed:
        killed.wait_for_log("worker_started")
        wait_until_begun(caller, [caller.sender.send(catalog.print_message, MESSAGES[0])])
    with worker(tmp_path, "default", environ | {"INVIGIL_MESSAGE_SECONDS": "0.5"}) as other:
        eventually(lambda: other.output() == f"{MESSAGES[0]}\n", RECOVERED_WITHIN_S, "the message")
        assert other.end() == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"INVIGIL_REDIS_URL": "http://secret@127.0.0.1"}, "INVIGIL_REDIS_URL"),
        ({"INVIGIL_MESSAGE_SECONDS": "soon"}, "INVIGIL_MESSAGE_SECONDS"),
        ({"INVIGIL_STORE_FILE": "/nowhere"}, "INVIGIL_STORE"),
        ({"INVIGIL_MAIL_TO": ""}, "INVIGIL_MAIL_TO"),
        ({"INVIGIL_ROUTES": "print_*=exams"}, "INVIGIL_ROUTES cannot be used: exams is for tasks declared for it"),
        ({"INVIGIL_STORE": "file:///proc/invigil"}, "INVIGIL_STORE: /proc/invigil cannot be used"),
    ],
)
def test_a_worker_names_the_setting_that_stops_it(tmp_path: Path, change: dict[str, str], named: str) -> None:
    """One sentence on standard error without the value, status 1, and nothing started."""
    ended = run("worker", environ=settings_of(tmp_path, "redis://127.0.0.1:1") | change)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[-1].startswith("worker: ")
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "secret" not in ended.stderr


@pytest.mark.parametrize(("queues", "named"), [("exams,post", "'post'"), ("", "''")])
def test_a_queue_that_there_is_not_stops_a_worker(tmp_path: Path, queues: str, named: str) -> None:
    """There are those of the catalog and of the rules in the settings."""
    environ = settings_of(tmp_path, "redis://127.0.0.1:1", ROUTES="print_*=slow")
    ended = run("worker", "--queues", queues, environ=environ)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[-1] == f"worker: there is no queue {named}; there are exams, mail, default, slow"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threads", "0"], "a whole number from 1 to 256"),
        (["--threads", "1e3"], "a whole number from 1 to 256"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Status 2 and what is allowed, as command lines have it."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def wait_until_begun(services: Services, task_ids: Sequence[str]) -> None:
    """All of them run; one that has only been fetched would go back when its worker ends."""
    engine = services.broker.engine
    eventually(
        lambda: {engine.look_up(task_id).state for task_id in task_ids} == {State.STARTED}, 20, "the start of all tasks"
    )


def stored_end(services: Services, pk: str) -> Ended | None:
    """How an exam ended, without settling it as every reader does."""
    (history,) = services.exams.read([pk])
    event = history.events[-1]
    return event if isinstance(event, Ended) else None
