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
from shared.tasks.catalog import PRINT_MESSAGE
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
        wait_until_begun(caller, [caller.sender.send(PRINT_MESSAGE, MESSAGES[0])])
        assert part.end() == 0
        assert part.output() == f"{MESSAGES[0]}\n"
        assert MESSAGES[0] not in part.errors()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_beats_and_ends_cleanly(tmp_path: Path, environ: dict[str, str], number: signal.Signals) -> None:
    """Its pulse shows while it runs; after either signal it says nothing more and ends with status 0."""
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
        wait_until_begun(caller, [caller.sender.send(PRINT_MESSAGE, message) for message in MESSAGES])
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
        wait_until_begun(caller, [caller.sender.send(PRINT_MESSAGE, MESSAGES[0])])
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--queues", "exams,post"], "there is no queue 'post'; there are exams, mail, default"),
        (["--queues", ""], "there is no queue ''"),
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
