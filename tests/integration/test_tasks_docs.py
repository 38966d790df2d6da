"""docs/tasks.md and docs/celery.md are true: their code is run, in a copy of the tree to which it has been added."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from run import redis_program
from shared.broker.retries import RetryLater
from shared.errors import Ignore, Reject, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLost
from shared.tasks.composition import chain, group
from shared.tasks.result import AsyncResult, GroupResult
from shared.tasks.task import task
from tests.support import task_bodies as tasks
from tests.support.parts import ROOT, settings_of
from tests.support.redis_server import PrivateRedis
from tests.support.task_system import TaskSystem, working_system
from worker.bodies import body_of
from worker.bound_task import BoundTask, Request

WITHIN_S = 60

FILE = re.compile(r"# (\S+\.py)\n")
TOLD = re.compile(r"^(?P<indent>\s*)(?P<code>\S.*?)  # → (?P<said>.*)$", re.MULTILINE)

PROLOGUE = """
from shared.errors import InvalidInput

def told(value, said):
    assert said in (str(value), repr(value)), f"{value!r} is not {said}"
"""


@pytest.fixture
def redis() -> Iterator[PrivateRedis]:
    server = PrivateRedis(redis_program())
    yield server
    server.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what runs."""
    for package in ("shared", "worker"):
        shutil.copytree(ROOT / package, tmp_path / "tree" / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "tree"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)


def add_to(tree: Path, block: str) -> None:
    """Writes the file that the block's first line names; to the catalog it adds."""
    match = FILE.match(block)
    assert match is not None
    path = tree / match[1]
    if path.name != "catalog.py":
        path.write_text(block, encoding="utf-8")
        return
    catalog = path.read_text(encoding="utf-8")
    before, mark, after = catalog.partition("\nCATALOG:")
    assert mark
    path.write_text(f"{before}\n{block[match.end() :]}\n{mark}{after}", encoding="utf-8")


def test_the_code_of_the_page_on_tasks_runs(tree: Path, tmp_path: Path, redis: PrivateRedis) -> None:
    """Declarations go into the catalog, bodies beside the others; the rest is a program that sends, and its comments
    say what comes of it.
    """
    sends = [PROLOGUE]
    for block in blocks("tasks.md"):
        if FILE.match(block):
            add_to(tree, block)
        else:
            sends.append(TOLD.sub(lambda match: f"{match['indent']}told({match['code']}, {match['said']!r})", block))
    (tree / "sender.py").write_text("\n".join(sends), encoding="utf-8")
    words = tmp_path / "words.txt"
    words.write_text("to be or not to be", encoding="utf-8")
    source = (tree / "sender.py").read_text(encoding="utf-8")
    named = source.replace("/tmp/words.txt", str(words)).replace("%2Ftmp%2Fwords.txt", str(words).replace("/", "%2F"))
    (tree / "sender.py").write_text(named, encoding="utf-8")
    environ = settings_of(tmp_path, redis.url, MESSAGE_SECONDS="0.5")
    worker = [sys.executable, "-m", "worker", "--queues", "default", "--threads", "4"]
    with subprocess.Popen(worker, cwd=tree, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            sender = [sys.executable, "sender.py"]
            ended = subprocess.run(
                sender, cwd=tree, env=environ, capture_output=True, text=True, timeout=WITHIN_S, check=False
            )
            assert ended.returncode == 0, ended.stderr
            assert ended.stdout == "kwargs.longest: Expected `int`, got `str`\n"
        finally:
            process.terminate()
        printed, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0
    assert "both are there\n" in printed


# docs/celery.md

ROW = re.compile(r"^\| (?P<theirs>.*?) \| (?P<ours>`.*?`)? ?\| (?P<why>.*)\|$", re.MULTILINE)


def rows() -> list[tuple[str, str]]:
    """Their call and ours, where there is one."""
    page = (ROOT / "docs" / "celery.md").read_text(encoding="utf-8").replace("\\|", "¦")
    found = [(row["theirs"], row["ours"]) for row in ROW.finditer(page) if row["ours"]]
    return [(theirs, ours.strip("`").replace("¦", "|")) for theirs, ours in found]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskSystem]:
    with working_system(tmp_path_factory.mktemp("tasks")) as system:
        yield system


@pytest.fixture
def names(system: TaskSystem) -> dict[str, Any]:
    """What the page's code may use."""
    result = tasks.add.delay(2, 2)
    assert result.get(WITHIN_S) == 4
    request = Request(id="x", task="add", queue="default", priority=5, retries=0, max_retries=3, deliveries=1)
    given = {
        "add": tasks.add,
        "result": result,
        "self": BoundTask(request, lambda _: None, lambda: False),
        "error": ValueError("no"),
        "tomorrow": datetime.now(UTC) + timedelta(days=1),
    }
    used: list[Any] = [task, body_of, timedelta, chain, group, AsyncResult, GroupResult, Ignore, Reject]
    return given | {each.__name__: each for each in [*used, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLost]}


@pytest.mark.parametrize(("theirs", "ours"), rows(), ids=lambda cell: cell[:50])
def test_our_calls_on_the_page_for_who_comes_from_celery_run(names: dict[str, Any], theirs: str, ours: str) -> None:
    """Each by itself; those of a body end its run as they should."""
    code = f"{ours}\ndef add_up(x: int, y: int = 0) -> int: ..." if ours.startswith("@task(") else ours
    if ours.startswith("@body_of("):
        code = f"{ours}\ndef add_up(self, x: int, y: int = 0) -> int: ..."
    if ours.startswith("raise "):
        with pytest.raises((RetryLater, Ignore, Reject)):
            exec(code, names)
    else:
        exec(code, names)
    assert theirs


def test_the_page_has_not_lost_its_rows() -> None:
    """The pattern above finds them."""
    assert len(rows()) > 50
