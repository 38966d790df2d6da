"""Log lines, as another process writes them on its standard error."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.redis_server import PrivateRedis

ROOT = Path(__file__).parents[2]
SECRET = "Ada's secret, €"

EVENTS = """
import logging, sys, structlog
from shared.logs import configure_logs
configure_logs(sys.argv[1], "tests")
structlog.contextvars.bind_contextvars(request_id="r-1")
structlog.get_logger("ours").info("exam_started", pk="0199", path="/v1/exams", left=3.5, object=object)
logging.getLogger("theirs").warning("disk %s is %d %% full", "sda", 93)
try:
    {}["missing"]
except KeyError as error:
    structlog.get_logger("ours").error("failed", exc_info=error)
"""

# A real worker: a task that succeeds, one that fails and is tried again, one skipped.
DRAMATIQ = """
import sys, dramatiq
from datetime import timedelta
from dramatiq.middleware import Middleware, Retries, SkipMessage
from shared.broker.asking import Asking
from shared.broker.broker import TaskBroker
from shared.broker.connection import patient_client
from shared.broker.engine import Engine
from shared.broker.scripts import through_pool
from shared.logs import configure_logs
from shared.redis_keys import RedisKeys
configure_logs(sys.argv[1], "worker")

class SkipSome(Middleware):
    def before_process_message(self, broker, message):
        if message.actor_name == "skipped":
            raise SkipMessage("cancelled")

client, keys = patient_client(sys.argv[3]), RedisKeys("logs")
engine = Engine(Asking(through_pool(client), keys), timedelta(minutes=1))
broker = TaskBroker(engine, client, keys, [SkipSome(), Retries(max_retries=1, min_backoff=1, max_backoff=1)])
body = {"succeeds": lambda text: None, "fails": lambda text: 1 / 0, "skipped": lambda text: None}
actors = [dramatiq.actor(run, actor_name=name, broker=broker) for name, run in body.items()]
worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
worker.start()
for actor in actors:
    actor.send(sys.argv[2])
    actor.send_with_options(kwargs={"text": sys.argv[2]})
broker.join("default", timeout=10_000)
worker.stop()
"""


def written(program: str, log_format: str, *arguments: str) -> str:
    """What `program` wrote; it must end well and leave standard output to the messages."""
    run = [sys.executable, "-c", program, log_format, *arguments]
    ended = subprocess.run(run, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert ended.stdout == ""
    return ended.stderr


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_ours_and_other_libraries_events_are_json_lines_alike() -> None:
    """One object a line with the same fields, whoever logs; an exception's traceback is a field of its line."""
    ours, theirs, failed = lines(written(EVENTS, "json"))
    assert (ours["event"], ours["pk"], ours["left"], ours["level"]) == ("exam_started", "0199", 3.5, "info")
    assert (theirs["event"], theirs["level"]) == ("disk sda is 93 % full", "warning")
    assert failed["exception"].endswith("KeyError: 'missing'")
    for line in (ours, theirs, failed):
        assert line["process"] == "tests"
        assert line["timestamp"].endswith("Z")


def test_every_line_of_a_request_carries_its_id() -> None:
    """Also those that libraries write while the request is worked on."""
    assert [line["request_id"] for line in lines(written(EVENTS, "json"))] == ["r-1", "r-1", "r-1"]


def test_the_console_format_is_for_people() -> None:
    """The same events, in lines that are no JSON."""
    text = written(EVENTS, "console")
    assert all(part in text for part in ("exam_started", "disk sda is 93 % full", "KeyError: 'missing'"))
    assert "{" not in text.splitlines()[0]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_arguments_of_tasks_are_never_logged(redis_server: PrivateRedis, log_format: str) -> None:
    """Dramatiq writes messages as calls with their arguments; here only names and ids are left of them."""
    text = written(DRAMATIQ, log_format, SECRET, redis_server.url)
    assert "secret" not in text and "Ada" not in text
    assert "Failed to process message fails[" in text
    assert "Retrying message" in text and "Message skipped[" in text
