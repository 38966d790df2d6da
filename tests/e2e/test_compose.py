"""The system in containers, as `docker compose up --wait` starts it, with its containers killed meanwhile."""

import re
from collections.abc import Iterator

import pytest

from tests.support.containers import OURS, Containers
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("compose")

EXAM_S = 3
HEALED_WITHIN_S = EXAM_S + 15.0  # what the service promises after any crash
ANSWERED_WITHIN_S = 1.0


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    running = Containers(
        INVIGIL_EXAM_SECONDS=str(EXAM_S),
        INVIGIL_MESSAGE_SECONDS="2",
        INVIGIL_DIGEST_SECONDS="4",
        INVIGIL_SWEEP_SECONDS="5",
    )
    yield running
    running.close()


def test_a_silent_candidate_becomes_absent(containers: Containers) -> None:
    """The exams worker stores `absent` without anybody reading the exam, ended at the deadline itself."""
    exam = containers.start_exam(candidate="Ada Lovelace", title="Analysis")
    eventually(lambda: exam["pk"] in containers.stored_ends(), HEALED_WITHIN_S, "the outcome")
    ended = containers.call("GET", f"/v1/exams/{exam['pk']}").body
    assert (ended["status"], ended["ended_at"]) == ("absent", exam["deadline_at"])


def test_a_result_in_time_is_final(containers: Containers) -> None:
    """A pass stays a pass when the deadline is over; a second, other result is refused with the exam."""
    pk = containers.start_exam()["pk"]
    assert containers.decide(pk, "pass").body["status"] == "pass"
    later = containers.start_exam()["pk"]
    eventually(lambda: later in containers.stored_ends(), HEALED_WITHIN_S, "the end of a later exam")
    refused = containers.decide(pk, "fail")
    assert (refused.status, refused.body["exam"]["status"]) == (409, "pass")


def test_a_message_is_printed_as_a_line_of_its_own(containers: Containers) -> None:
    """The worker's console gets exactly the message, after its wait; no log of any container has it."""
    message = "Bring a ruler – and “two” pencils"
    answer = containers.call("POST", "/v1/messages", {"message": message})
    assert answer.status == 202
    eventually(lambda: containers.output("worker")[0] == f"{message}\n", HEALED_WITHIN_S, "the message")
    for part in OURS:
        assert "ruler" not in containers.output(part)[1]


def test_a_time_limit_ends_its_task_alone(containers: Containers) -> None:
    """In a child process of the worker, for which the container's limits and read-only root leave room."""
    limited, enough = (
        containers.call(
            "POST", "/v1/tasks", {"task": "print_message", "args": [f"{limit} s"], "time_limit": limit}
        ).body
        for limit in (1, 60)
    )
    ends = [containers.call("GET", f"/v1/tasks/{each['id']}?wait=20").body for each in (limited, enough)]
    assert [end["state"] for end in ends] == ["FAILURE", "SUCCESS"]
    assert ends[0]["error"]["type"] == "TimeLimitExceeded"
    printed = containers.output("worker")[0].splitlines()
    assert ("1 s" in printed, "60 s" in printed) == (False, True)


def test_a_killed_worker_process_is_replaced_and_leaves_nothing(containers: Containers) -> None:
    """Its supervisor goes on. Nobody but that, the container's first process, is there for what it had started."""
    program = """if True:
        import pathlib, sys
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            words = (folder / "cmdline").read_bytes().split(bytes(1))
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if b"--pool" in words or state == "Z":
                print(folder.name, state)
        """

    def look() -> dict[str, str]:
        """Worker processes and dead ones, with their states."""
        return dict(line.split() for line in containers.run_in("worker", "python", "-c", program).splitlines())

    started = containers.inspected("worker")["State"]["StartedAt"]
    for pid in (killed := look()):
        containers.run_in("worker", "sh", "-c", f"kill -9 {pid}")
    eventually(lambda: look() and not look().keys() & killed.keys(), HEALED_WITHIN_S, "another process")
    eventually(lambda: "Z" not in look().values(), HEALED_WITHIN_S, "the end of what the first had started")
    assert containers.inspected("worker")["State"]["StartedAt"] == started


def test_exams_end_though_their_worker_is_killed(containers: Containers) -> None:
    """`kill -9` of the exams worker while exams run: the engine starts it again and every one becomes absent."""
    pks = {containers.start_exam(candidate=f"candidate {number}")["pk"] for number in range(5)}
    containers.crash("worker-exams")
    eventually(lambda: pks <= containers.stored_ends(), HEALED_WITHIN_S, "the end of every exam")
    assert {containers.call("GET", f"/v1/exams/{pk}").body["status"] for pk in pks} == {"absent"}


def test_exams_end_though_their_tasks_are_lost(containers: Containers) -> None:
    """FLUSHALL takes the scheduled tasks out of Redis and a crash those in the worker's hands; the sweep is left."""
    pks = {containers.start_exam()["pk"] for _ in range(5)}
    assert containers.redis("flushall") == "OK"
    containers.crash("worker-exams")
    eventually(lambda: pks <= containers.stored_ends(), HEALED_WITHIN_S, "the end of every exam")
    assert {containers.call("GET", f"/v1/exams/{pk}").body["status"] for pk in pks} == {"absent"}


def test_exams_go_on_while_redis_is_stopped(containers: Containers) -> None:
    """Starts and results are answered within a second, messages are put off; with Redis back all exams end."""
    containers.compose("stop", "redis")
    try:
        answers = [containers.call("POST", "/v1/exams", {}) for _ in range(5)]
        pks = [answer.body["pk"] for answer in answers]
        answers.append(containers.call("PUT", f"/v1/exams/{pks[0]}/result", {"status": "fail"}))
        refused = containers.call("POST", "/v1/messages", {"message": "not now"})
    finally:
        containers.up()
    containers.started += pks
    assert [answer.status for answer in answers] == [201] * 5 + [200]
    assert max(answer.took_s for answer in answers) < ANSWERED_WITHIN_S
    assert (refused.status, refused.took_s < ANSWERED_WITHIN_S) == (503, True)
    assert int(refused.headers["retry-after"]) >= 1
    eventually(lambda: set(pks) <= containers.stored_ends(), HEALED_WITHIN_S, "the end of every exam")


def test_every_outcome_is_in_exactly_one_mail(containers: Containers) -> None:
    """Over all that has been done to the system, digests reach the mail catcher and tell of each exam once."""
    ends = {containers.start_exam(candidate=f"of {status}")["pk"]: status for status in ("pass", "fail")}
    for pk, status in ends.items():
        assert containers.decide(pk, status).status == 200
    ends[containers.start_exam(candidate="of silence")["pk"]] = "absent"

    eventually(lambda: set(containers.started) <= set(_told(containers)), HEALED_WITHIN_S, "a mail of every exam")
    seen = len(containers.mails())
    eventually(lambda: len(containers.mails()) > seen, HEALED_WITHIN_S, "one more mail")
    assert sorted(_told(containers)) == sorted(containers.started)
    told = "".join(mail["text"] for mail in containers.mails())
    for pk, status in ends.items():
        assert f"{status.upper()}  {pk}" in told
    assert {mail["to"][0]["address"] for mail in containers.mails()} == {"invigilators@example.org"}


def _told(containers: Containers) -> list[str]:
    """The exams in the text of all mails, one entry for each time."""
    told = "".join(mail["text"] for mail in containers.mails())
    return re.findall(r"^[A-Z]+  ([0-9a-f-]{36})$", told, re.MULTILINE)


def test_stopping_is_orderly_and_a_second_up_keeps_everything(containers: Containers) -> None:
    """Each part ends with status 0 when asked to; after the next `up` exams, key and password are what they were."""
    exam, password = containers.start_exam(), containers.run_in("redis", "cat", "/run/redis/password")
    containers.compose("stop", *OURS, "redis")
    assert {part: containers.inspected(part)["State"]["ExitCode"] for part in (*OURS, "redis")} == dict.fromkeys(
        (*OURS, "redis"), 0
    )
    containers.up()
    assert containers.first_key() == containers.key
    assert containers.run_in("redis", "cat", "/run/redis/password") == password
    assert containers.call("GET", f"/v1/exams/{exam['pk']}").status == 200


def test_no_container_runs_as_root_or_can_write_to_its_root(containers: Containers) -> None:
    """Ours run as 10001, the others as users of their images; a file can be made in none of their roots."""
    probe = (
        'id -u; for folder in / /app /usr /etc; do touch "$folder/probe" 2>/dev/null && echo "wrote $folder"; done; :'
    )
    found = {
        service: containers.run_in(service, "sh", "-c", probe).split("\n") for service in (*OURS, "redis", "maildev")
    }
    assert {part: found[part] for part in OURS} == {part: ["10001", ""] for part in OURS}
    assert found["redis"] == ["999", ""]
    assert found["maildev"][0] != "0"
    assert found["maildev"][1:] == [""]


def test_the_password_of_redis_shows_nowhere(containers: Containers) -> None:
    """Neither what the engine tells of a container nor a command line has it; without it Redis refuses to serve."""
    password = containers.run_in("redis", "cat", "/run/redis/password")
    assert len(password) == 64
    for service in (*OURS, "redis", "init"):
        assert password not in str(containers.inspected(service))
    assert password not in containers.run_in("redis", "cat", "/proc/1/cmdline")
    refusal = containers.run_in("redis", "sh", "-c", "redis-cli -s /run/redis/redis.sock get x")
    assert refusal.startswith("NOAUTH")


def test_redis_is_durable(containers: Containers) -> None:
    """As it runs, not only as it is written down: append-only file, synced every second, nothing evicted."""
    for name, value in {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}.items():
        assert containers.redis(f"config get {name}").split("\n") == [name, value]


def test_the_image_holds_the_compiled_packages_and_no_more(containers: Containers) -> None:
    """Four packages with their bytecode, and the version; no tests, no working copy, nothing that installs or
    downloads."""
    files = containers.run_in("api", "find", "/app", "-type", "f").split()
    assert {path.split("/")[2] for path in files} == {"api", "scheduler", "shared", "worker", "pyproject.toml"}
    sources = {path for path in files if path.endswith(".py")}
    compiled = {
        re.sub(r"__pycache__/(.+)\.cpython-313\.pyc$", r"\1.py", path) for path in files if path.endswith("pyc")
    }
    assert compiled == sources
    found = containers.run_in("api", "sh", "-c", "ls /venv/bin/pip* 2>/dev/null; command -v curl wget; :")
    assert found == ""
