"""The system as a newcomer meets it: what `make run` starts, called over REST, with its parts killed meanwhile."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest

from shared.broker.record import pack_id
from shared.redis_keys import RedisKeys
from tests.support.redis_server import PrivateRedis
from tests.support.running_system import ROOT, RunningSystem
from tests.support.tools import program
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("run")

SHORT = {
    "INVIGIL_EXAM_SECONDS": "2",
    "INVIGIL_MESSAGE_SECONDS": "3",
    "INVIGIL_DIGEST_SECONDS": "2",
    "INVIGIL_SWEEP_SECONDS": "1",
}
HEALED_WITHIN_S = 15.0  # what the service promises after any crash

# The words by which the processes that share a worker's work are told apart.
SUPERVISOR, SUPERVISED, CHILDREN = "--autoscale", "--pool", "worker.slot_server"


@pytest.fixture(scope="module")
def system() -> Iterator[RunningSystem]:
    running = RunningSystem(**SHORT)
    yield running
    running.close()


@pytest.fixture
def own_system() -> Iterator[RunningSystem]:
    """For tests that end the launcher."""
    running = RunningSystem(**SHORT)
    yield running
    running.close()


def test_a_silent_candidate_becomes_absent_at_the_deadline(system: RunningSystem) -> None:
    """With nothing heard, a worker stores `absent`, ended at the deadline itself; nobody has to read the exam."""
    exam = system.start_exam(candidate="Ada Lovelace", title="Analysis")
    eventually(lambda: system.is_stored_as_ended(exam["pk"]), HEALED_WITHIN_S, "the outcome")
    ended = system.call("GET", f"/v1/exams/{exam['pk']}").body
    assert (ended["status"], ended["ended_at"]) == ("absent", exam["deadline_at"])
    assert (ended["candidate"], ended["title"], ended["version"]) == ("Ada Lovelace", "Analysis", 2)
    assert instant(ended["recorded_at"]) >= instant(exam["deadline_at"])


def test_a_result_in_time_is_final(system: RunningSystem) -> None:
    """The first result decides: it may be repeated, not changed, and the deadline passes without effect."""
    pk = system.start_exam()["pk"]
    assert system.call("PUT", f"/v1/exams/{pk}/result", {"status": "pass"}).body["status"] == "pass"
    assert system.call("PUT", f"/v1/exams/{pk}/result", {"status": "pass"}).status == 200
    refused = system.call("PUT", f"/v1/exams/{pk}/result", {"status": "fail"})
    assert (refused.status, refused.body["exam"]["status"]) == (409, "pass")
    later = system.start_exam()["pk"]
    eventually(lambda: system.is_stored_as_ended(later), HEALED_WITHIN_S, "a later deadline")
    assert system.call("GET", f"/v1/exams/{pk}").body["status"] == "pass"


def test_a_result_leaves_a_tombstone_for_the_deadline_task(system: RunningSystem) -> None:
    """It lies in Redis for an hour beyond the deadline, whatever becomes due meanwhile."""
    exam = system.start_exam()
    system.call("PUT", f"/v1/exams/{exam['pk']}/result", {"status": "fail"})
    key = RedisKeys("invigil").key("ended", pack_id(exam["task_id"]))
    assert system.redis().pttl(key) > 3600 * 1000
    later = system.start_exam()["pk"]
    eventually(lambda: system.is_stored_as_ended(later), HEALED_WITHIN_S, "a later deadline")
    assert system.redis().exists(key)


def test_messages_are_printed_as_they_are_and_hold_no_deadline_up(system: RunningSystem) -> None:
    """Sixteen wait their seconds in the other worker at once, each ends up as one line on the console, and none is
    in a log; an exam due meanwhile ends on time."""
    texts = [f"message {number}: grüße, 你好 'quoted' \\ {{}}" for number in range(16)]
    for text in texts:
        began = time.monotonic()
        answer = system.call("POST", "/v1/messages", {"message": text})
        assert (answer.status, answer.body["task"], answer.body["queue"]) == (202, "print_message", "default")
        assert time.monotonic() - began < 1  # and not the three seconds that the message takes
    exam = system.start_exam(duration_s=1)
    eventually(lambda: system.is_stored_as_ended(exam["pk"]), HEALED_WITHIN_S, "the outcome")
    assert not set(texts) & set(system.output().splitlines()), "a deadline waited for a message"
    eventually(lambda: set(texts) <= set(system.output().splitlines()), 15, "the printing")
    assert [system.output().splitlines().count(text) for text in texts] == [1] * 16
    assert "message 0" not in system.errors()


def test_every_outcome_is_in_one_digest(system: RunningSystem) -> None:
    """However often a mail goes out, an exam is told of once; when nothing happened there is a mail that says so."""
    pks = [system.start_exam(candidate=f"<b>candidate {number}</b>")["pk"] for number in range(5)]
    system.call("PUT", f"/v1/exams/{pks[0]}/result", {"status": "pass"})
    eventually(lambda: all(system.mentions(pk) for pk in pks), 30, "the digests")
    mails = len(system.mails())
    eventually(lambda: len(system.mails()) >= mails + 2, 15, "two further digests")
    assert [system.mentions(pk) for pk in pks] == [1] * 5
    assert any("Nothing happened" in mail.get_body(("plain",)).get_content() for mail in system.mails())  # type: ignore[union-attr]
    assert len({mail["Message-ID"] for mail in system.mails()}) == len(system.mails())


@pytest.mark.parametrize("part", ["gunicorn", "redis", "worker", "scheduler", SUPERVISOR, SUPERVISED, CHILDREN])
def test_kill_9_of_a_part_loses_nothing(system: RunningSystem, part: str) -> None:
    """Exams running while a part is killed all end in time: those with a result as it says, the others absent."""
    exams = [system.start_exam(duration_s=4) for _ in range(10)]
    passed, silent = exams[:5], exams[5:]
    for exam in passed:
        assert system.call("PUT", f"/v1/exams/{exam['pk']}/result", {"status": "pass"}).status == 200
    system.kill(part)
    eventually(
        lambda: all(system.is_stored_as_ended(exam["pk"]) for exam in silent), 4 + HEALED_WITHIN_S, "the outcomes"
    )
    eventually(lambda: is_answering(system), 10, "the API's return")
    statuses = [system.call("GET", f"/v1/exams/{exam['pk']}").body["status"] for exam in exams]
    assert statuses == ["pass"] * 5 + ["absent"] * 5
    eventually(lambda: all(system.mentions(exam["pk"]) == 1 for exam in exams), 30, "the digest")


def test_a_hundred_messages_at_once_bring_more_workers(system: RunningSystem) -> None:
    """One line of the log says why there are four; each message is printed once."""
    texts = [f"one of a hundred: {number}" for number in range(100)]
    for text in texts:
        assert system.call("POST", "/v1/messages", {"message": text}).status == 202
    eventually(lambda: len(system.pids(SUPERVISED)) == 4, 10, "four workers")
    scaled = [line for line in system.log() if line["event"] == "scaled"]
    assert (scaled[-1]["to"], scaled[-1]["reason"]) == (4, "those present will not soon get through what waits")
    eventually(lambda: set(texts) <= set(system.output().splitlines()), 30, "the printing")
    assert [system.output().splitlines().count(text) for text in texts] == [1] * 100


@pytest.mark.parametrize("part", [SUPERVISOR, SUPERVISED])
def test_kill_9_of_a_part_loses_no_message(system: RunningSystem, part: str) -> None:
    """What waits its seconds then is printed all the same, in a thread and in a child process."""
    texts = [f"in spite of the death of {part}: {number}" for number in range(4)]
    limits: list[dict[str, Any]] = [{}, {"time_limit": 60}]
    for number, text in enumerate(texts):
        body = {"task": "print_message", "args": [text], **limits[number % 2]}
        assert system.call("POST", "/v1/tasks", body).status == 202
    eventually(lambda: len(system.states("STARTED", "print_message")) >= 4, 10, "their beginning")
    system.kill(part)
    eventually(lambda: set(texts) <= set(system.output().splitlines()), 3 + HEALED_WITHIN_S, "the printing")


def test_kill_9_of_a_child_process_fails_its_task_alone(system: RunningSystem) -> None:
    """The message beside it is printed, and the next one that needs a child gets one."""
    lost, beside, after = "in a child", "in a thread", "in the next child"
    sent = system.call("POST", "/v1/tasks", {"task": "print_message", "args": [lost], "time_limit": 60}).body["id"]
    system.call("POST", "/v1/messages", {"message": beside})
    eventually(lambda: system.call("GET", f"/v1/tasks/{sent}").body["state"] == "STARTED", 10, "its beginning")
    system.signal(CHILDREN, signal.SIGKILL)
    told = system.call("GET", f"/v1/tasks/{sent}?wait=10").body
    assert (told["state"], told["error"]["type"]) == ("FAILURE", "WorkerLost")
    system.call("POST", "/v1/tasks", {"task": "print_message", "args": [after], "time_limit": 60})
    eventually(lambda: {beside, after} <= set(system.output().splitlines()), 15, "the printing of the others")
    assert lost not in system.output().splitlines()


def test_exams_end_when_redis_is_emptied(system: RunningSystem) -> None:
    """FLUSHALL takes every scheduled task away; the sweep settles what they would have."""
    exams = [system.start_exam(duration_s=2) for _ in range(10)]
    system.redis().flushall()
    eventually(
        lambda: all(system.is_stored_as_ended(exam["pk"]) for exam in exams), 2 + HEALED_WITHIN_S, "the outcomes"
    )


def test_redis_hanging_delays_no_start_and_no_result(system: RunningSystem) -> None:
    """While Redis takes connections and answers nothing, 16 clients at once are each served within a second; a
    message is refused with 503 and Retry-After; afterwards all goes on."""
    system.signal("redis", signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(16) as pool:
            started = list(pool.map(lambda _: system.call("POST", "/v1/exams", {"duration_s": 60}), range(64)))
            pks = [answer.body["pk"] for answer in started]
            passed = list(pool.map(lambda pk: system.call("PUT", f"/v1/exams/{pk}/result", {"status": "pass"}), pks))
        refused = system.call("POST", "/v1/messages", {"message": "not now"})
    finally:
        system.signal("redis", signal.SIGCONT)
    assert {answer.status for answer in started} == {201}
    assert {answer.status for answer in passed} == {200}
    assert max(answer.took_s for answer in started + passed) < 1.0
    assert (refused.status, refused.headers.get("retry-after")) == (503, "1")
    eventually(lambda: system.call("POST", "/v1/messages", {"message": "now"}).status == 202, 10, "Redis's return")
    eventually(lambda: "now" in system.output().splitlines(), 20, "the printing")


@pytest.mark.parametrize("away_s", [8, pytest.param(60, marks=pytest.mark.soak)])
def test_exams_end_after_redis_was_away(own_redis: PrivateRedis, away_s: float) -> None:
    """Exams that were running or were started meanwhile, due before its return or after, end within 15 s of either."""
    system = RunningSystem(INVIGIL_REDIS_URL=own_redis.url, **SHORT)
    try:
        before = [system.start_exam(duration_s=seconds) for seconds in (1, 4, away_s + 2)]
        own_redis.kill()
        back_at = time.monotonic() + away_s
        meanwhile = [system.start_exam(duration_s=seconds) for seconds in (1, away_s + 2)]
        eventually(lambda: time.monotonic() > back_at, away_s + 1, "the end of the pause")
        own_redis.start()
        eventually(
            lambda: all(system.is_stored_as_ended(exam["pk"]) for exam in before + meanwhile),
            2 + HEALED_WITHIN_S,
            "the outcomes",
        )
    finally:
        system.close()


def test_a_folder_in_use_is_refused(system: RunningSystem) -> None:
    """A second start on the same var/ says which process has it."""
    environ = {**os.environ, "INVIGIL_VAR": str(system.var)}
    second = subprocess.run(
        [sys.executable, "run.py"], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=20, check=False
    )
    assert second.returncode == 1
    assert f"{system.var} is in use by process " in second.stderr


def test_the_key_is_kept_for_its_owner_only(system: RunningSystem) -> None:
    """var/dev-key holds just the key, readable by its owner."""
    kept = system.var / "dev-key"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.read_text().startswith("ik_")
    assert not kept.read_text().endswith("\n")


def test_a_key_can_be_made_and_revoked_while_the_api_runs(system: RunningSystem) -> None:
    """`python -m api.keys` changes who may call, at once."""
    key = keys(system, "new", "--name", "reader", "--scopes", "exams:read").strip()
    assert system.call("GET", "/v1/exams", key=key).status == 200
    assert system.call("POST", "/v1/exams", key=key).status == 403
    keys(system, "revoke", key.split("_")[1])
    assert system.call("GET", "/v1/exams", key=key).status == 401


def test_the_calls_of_the_readme_work(system: RunningSystem) -> None:
    """What it tells a newcomer to type is typed, against this system's address and key; each answer is JSON."""
    calls = (ROOT / "README.md").read_text().partition("## Call it")[2].partition("\n## ")[0]
    script = "\n".join(re.findall(r"```sh\n(.*?)```", calls, re.DOTALL))
    script = script.replace("API=http://127.0.0.1:8000", f"API=http://{system.bind}")
    script = script.replace("var/dev-key", str(system.var / "dev-key"))
    script = (
        f'set -euo pipefail\n{program("curl")} --version >/dev/null\ncurl() {{ command curl -f "$@"; echo; }}\n{script}'
    )
    typed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert typed.returncode == 0, typed.stderr
    started, passed, read, events, listed, message, task, health = map(json.loads, typed.stdout.splitlines())
    assert (started["candidate"], started["duration_s"]) == ("Ada Lovelace", 300)
    assert (passed["status"], read["status"], passed["pk"]) == ("pass", "pass", read["pk"])
    assert [event["event"] for event in events["items"]] == ["started", "ended"]
    assert started["pk"] in [exam["pk"] for exam in listed["items"]]
    assert (message["task"], health["status"]) == ("print_message", "ready")
    assert (task["task"], task["state"]) == ("print_message", "SUCCESS")


def test_ctrl_c_ends_everything_and_the_next_start_goes_on(own_system: RunningSystem) -> None:
    """No process stays behind; exams and tasks of before are there after the next start, with the same key."""
    exam = own_system.start_exam(duration_s=3)
    assert own_system.interrupt() == 0
    assert own_system.pids() == []
    assert not own_system.is_stored_as_ended(exam["pk"])
    own_system.launch()
    eventually(lambda: own_system.is_stored_as_ended(exam["pk"]), 3 + HEALED_WITHIN_S, "the outcome")


def test_a_killed_launcher_takes_its_parts_along(own_system: RunningSystem) -> None:
    """After `kill -9` of run.py itself nothing is left that would be in the way of the next start."""
    own_system.kill_launcher()
    eventually(lambda: not own_system.pids(), 40, "the end of all parts")
    own_system.launch()
    assert own_system.start_exam()["status"] == "started"


def keys(system: RunningSystem, *arguments: str) -> str:
    environ = {**os.environ, "INVIGIL_KEYS": str(system.var / "keys.json")}
    command = [sys.executable, "-m", "api.keys", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=20, check=True).stdout


def is_answering(system: RunningSystem) -> bool:
    try:
        return system.call("GET", "/livez").status == 200
    except OSError:
        return False


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
