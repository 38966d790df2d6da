"""Tasks over REST: sent, read, revoked, done again; what they have returned; what runs them."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result

from shared.broker.record import pack_id
from shared.broker.states import State
from shared.clock import rfc3339
from shared.redis_keys import RedisKeys
from tests.support.announcements import announce_nonsense
from tests.support.api import Api, Request, messages_of, problem_of, settings_in
from tests.support.redis_server import PrivateRedis
from tests.support.task_bodies import TASKS, add_in_child, crash, reject
from tests.support.task_system import TaskSystem, task_system
from tests.support.waiting import eventually

FIELDS = (
    *("id", "task", "queue", "priority", "state", "reason", "ready", "successful", "failed", "result", "result_url"),
    *("error", "progress", "retries", "deliveries", "time_taken", "eta", "expires", "enqueued_at", "started_at"),
    *("ended_at", "retry_of"),
)
FAR = 3_600


@pytest.fixture
def system(tmp_path: Path, redis_server: PrivateRedis) -> Iterator[TaskSystem]:
    with task_system(redis_server, tmp_path) as system:
        yield system


@pytest.fixture
def api(system: TaskSystem) -> Iterator[Api]:
    with system.api() as api:
        yield api


def send(api: Api, task: str, *args: Any, **fields: Any) -> dict[str, Any]:
    """The task as it was answered."""
    answer = api.call("POST", "/v1/tasks", {"task": task, "args": list(args), **fields})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/tasks/{answer.json['id']}"
    return dict(answer.json)


def read(api: Api, task_id: str, wait: float = 0) -> dict[str, Any]:
    answer = api.call("GET", f"/v1/tasks/{task_id}?wait={wait}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json)


def revoke(api: Api, task_id: str, *, terminate: bool = False) -> str:
    answer = api.call("DELETE", f"/v1/tasks/{task_id}{'?terminate=true' if terminate else ''}")
    assert answer.status_code == 200, answer.text
    return str(answer.json["outcome"])


def has_begun(system: TaskSystem, name: str) -> None:
    eventually(lambda: (system.folder / f"{name}.begun").exists(), what=f"the start of {name}")


def fail(api: Api, *args: Any, **fields: Any) -> dict[str, Any]:
    """A task that has failed."""
    task = read(api, send(api, "fail", *args, **fields)["id"], 10)
    assert task["failed"]
    return task


# sending and reading


def test_a_task_is_taken_and_done(system: TaskSystem, api: Api) -> None:
    """202 with all its fields, then 200 with what came of it."""
    sent = send(api, "add", 1, kwargs={"y": 2})
    assert tuple(sent) == FIELDS
    assert (sent["state"], sent["ready"], sent["queue"], sent["priority"]) == ("PENDING", False, "default", 5)
    assert sent == read(api, sent["id"])
    with system.worker():
        done = read(api, sent["id"], 10)
    assert (done["state"], done["successful"], done["failed"], done["result"]) == ("SUCCESS", True, False, 3)
    assert (done["retries"], done["deliveries"], done["error"], done["result_url"]) == (0, 1, None, None)
    assert done["enqueued_at"] == sent["enqueued_at"] <= done["started_at"] <= done["ended_at"]
    assert 0 <= done["time_taken"] < 10


def test_an_error_is_told(system: TaskSystem, api: Api) -> None:
    """Its class, its message and its traceback."""
    with system.worker():
        task = fail(api, "no good")
    assert (task["state"], task["ready"], task["successful"]) == ("FAILURE", True, False)
    assert (task["error"]["type"], task["error"]["message"]) == ("ValueError", "no good")
    assert task["error"]["traceback"].endswith("ValueError: no good\n")


def test_progress_is_told(system: TaskSystem, api: Api) -> None:
    """While it runs, of an internal task too."""
    with system.worker():
        task_id = TASKS["tell"].delay(3, system.path("go")).id
        told = eventually(lambda: read(api, task_id)["progress"])
        assert told == {"current": 3, "total": 3, "note": "step 3"}
        assert read(api, task_id)["state"] == "STARTED"
        system.write("go")
        assert read(api, task_id, 10)["progress"] == told


def test_every_option_reaches_the_task(api: Api) -> None:
    """By Celery's names, as the task shows them."""
    eta = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    task = send(
        api,
        "wait_in_child",
        "x",
        eta=eta.isoformat(),
        expires=7_200.5,
        queue="slow",
        priority=9,
        retries=4,
        soft_time_limit=1.5,
        time_limit=2,
        task_id="my:task~1",
    )
    assert (task["id"], task["queue"], task["priority"], task["eta"]) == ("my:task~1", "slow", 9, rfc3339(eta))
    assert task["expires"] > rfc3339(eta)
    (message, due_at), *_ = api.tasks.due("slow")
    assert due_at == eta
    options = {name: message.options[name] for name in ("max_retries", "soft_time_limit", "time_limit")}
    assert options == {"max_retries": 4, "soft_time_limit": 1_500, "time_limit": 2_000}


def test_nulls_are_as_left_out(api: Api) -> None:
    """Every optional field may be null."""
    nulls = dict.fromkeys(
        ("args", "kwargs", "countdown", "eta", "expires", "queue", "priority", "retries", "time_limit", "task_id")
    )
    answer = api.call("POST", "/v1/tasks", {**nulls, "task": "ignore", "soft_time_limit": None})
    assert answer.status_code == 202


@pytest.mark.parametrize("eta", ["2020-01-01T00:00:00Z", "1999-12-31T23:59:59.9+14:00"])
def test_an_eta_that_has_passed_is_now(api: Api, eta: str) -> None:
    """It is ready at once."""
    task = send(api, "ignore", eta=eta)
    assert task["eta"] is None
    assert [message.message_id for message in api.tasks.ready("default")] == [task["id"]]


def test_a_countdown_puts_it_off(api: Api) -> None:
    """Fractions are fine; 0 is now."""
    later, now = send(api, "ignore", countdown=FAR + 0.5), send(api, "ignore", countdown=0)
    ((message, _),) = api.tasks.due("default")
    assert message.message_id == later["id"]
    assert (later["eta"] > later["enqueued_at"], now["eta"]) == (True, None)
    assert read(api, later["id"]) == later


def test_what_expires_is_revoked(system: TaskSystem, api: Api) -> None:
    """Accepted also where it expires before its eta; never run."""
    tasks = [send(api, "ignore", expires=0), send(api, "ignore", countdown=FAR, expires="2020-01-01T00:00:00Z")]
    waiting = send(api, "ignore", countdown=FAR, expires=FAR / 2)
    assert read(api, waiting["id"]) == waiting
    assert waiting["eta"] > waiting["expires"]
    with system.worker():
        ends = [read(api, task["id"], 10) for task in tasks]
    assert [(end["state"], end["reason"], end["deliveries"]) for end in ends] == [("REVOKED", "expired", 0)] * 2


def test_a_taken_id_is_refused_naming_the_state(system: TaskSystem, api: Api) -> None:
    """409, before it has begun and after it has ended."""
    body = {"task": "add", "args": [1], "task_id": "mine"}
    assert api.call("POST", "/v1/tasks", body).status_code == 202
    problem = problem_of(api.call("POST", "/v1/tasks", body), 409, "task-id-taken")
    assert problem["detail"] == "there is a task mine already: PENDING"
    with system.worker():
        read(api, "mine", 10)
    problem = problem_of(api.call("POST", "/v1/tasks", body), 409, "task-id-taken")
    assert problem["detail"] == "there is a task mine already: SUCCESS"


@pytest.mark.parametrize("path", ["", "/result"])
@pytest.mark.parametrize("task_id", ["nobody", "x" * 101, "a%20b", "%00", "%C3%A4"])
def test_an_unknown_task_is_not_found(api: Api, path: str, task_id: str) -> None:
    """404, also for what cannot be an id."""
    problem_of(api.call("GET", f"/v1/tasks/{task_id}{path}"), 404, "task-not-found")


def test_unknown_tasks_cannot_be_worked_on(api: Api) -> None:
    """404 for each way to."""
    for method, path in [
        ("DELETE", "/v1/tasks/nobody"),
        ("POST", "/v1/tasks/nobody/retry"),
        ("POST", "/v1/dead/nobody/retry"),
        ("DELETE", "/v1/dead/nobody"),
    ]:
        problem_of(api.call(method, path), 404, "task-not-found")


def test_scopes_are_asked_for(api: Api) -> None:
    """Reading needs tasks:read, all else tasks:write."""
    now = api.services.clock.now()
    reader, writer = (api.keys.new(scope, (scope,), now, lifetime=None) for scope in ("tasks:read", "tasks:write"))
    reads = ["/v1/tasks", "/v1/tasks/x", "/v1/tasks/x/result", "/v1/catalog", "/v1/queues", "/v1/workers", "/v1/dead"]
    writes = [("POST", "/v1/tasks"), ("DELETE", "/v1/tasks/x"), ("POST", "/v1/tasks/x/retry")]
    writes += [("POST", "/v1/dead/x/retry"), ("DELETE", "/v1/dead/x")]
    for key, refused in ((writer, [("GET", path) for path in reads]), (reader, writes)):
        for method, path in refused:
            problem_of(api.call(method, path, key=key), 403, "not-authorised")


# internal tasks


def test_an_internal_task_can_only_be_looked_at(system: TaskSystem, api: Api) -> None:
    """Never sent, revoked or done again."""
    problem = problem_of(api.call("POST", "/v1/tasks", {"task": "reject"}), 422, "invalid-input")
    assert messages_of(problem)["task"].startswith("reject is internal: it can only be looked at")
    later = reject.apply_async(countdown=FAR).id
    assert read(api, later)["state"] == "PENDING"
    problem = problem_of(api.call("DELETE", f"/v1/tasks/{later}?terminate=true"), 409, "task-conflict")
    assert problem["detail"] == "reject is internal: it can only be looked at"
    with system.worker():
        failed = reject.delay().id
        assert read(api, failed, 10)["failed"]
    for path in ("tasks", "dead"):
        problem_of(api.call("POST", f"/v1/{path}/{failed}/retry"), 409, "task-conflict")
    assert read(api, later)["state"] == "PENDING"


def test_the_deadline_of_an_exam_can_be_looked_at_and_not_touched(tmp_path: Path, redis_server: PrivateRedis) -> None:
    """While it waits and after the exam's end, when hardly more is known than that."""
    with Api(settings_in(tmp_path, redis_server.url)) as api:
        exam = api.start(duration_s=60)
        task = read(api, exam["task_id"])
        assert (task["task"], task["queue"], task["eta"]) == ("mark_absent", "exams", exam["deadline_at"])
        problem_of(api.call("DELETE", f"/v1/tasks/{exam['task_id']}?terminate=true"), 409, "task-conflict")
        assert read(api, exam["task_id"]) == task
        api.call("PUT", f"/v1/exams/{exam['pk']}/result", {"status": "pass"})
        ended = read(api, exam["task_id"])
        assert (ended["state"], ended["reason"], ended["task"], ended["queue"]) == ("REVOKED", "cancelled", None, None)
        problem_of(api.call("GET", f"/v1/tasks/{exam['task_id']}/result"), 404, "task-not-found")
        problem_of(api.call("DELETE", f"/v1/tasks/{exam['task_id']}"), 409, "task-conflict")


def test_a_retry_is_told_while_it_waits(system: TaskSystem, api: Api) -> None:
    """RETRY with the error so far, how often it has been tried, and the time of the next try."""
    with system.worker():
        task_id = TASKS["retry_until"].delay(system.path("tries"), 9, FAR).id
        eventually(lambda: read(api, task_id)["state"] == "RETRY")
    task = read(api, task_id)
    assert (task["error"]["message"], task["retries"], task["deliveries"]) == ("not yet", 1, 1)
    assert (task["ready"], task["failed"]) == (False, False)
    assert task["eta"] > task["enqueued_at"]
    assert [item["id"] for item in api.call("GET", "/v1/tasks?state=RETRY").json["items"]] == [task_id]


# revoking


def test_revoking_one_that_waits(system: TaskSystem, api: Api) -> None:
    """It never runs, and saying so again changes nothing."""
    for fields in ({}, {"countdown": FAR}):
        task_id = send(api, "add", 1, **fields)["id"]
        assert [revoke(api, task_id) for _ in range(2)] == ["revoked", "revoked"]
        task = read(api, task_id)
        assert (task["state"], task["reason"], task["task"]) == ("REVOKED", "cancelled", "add")
    with system.worker():
        assert read(api, send(api, "add", 1)["id"], 10)["successful"]
        assert read(api, task_id)["deliveries"] == 0


def test_revoking_one_that_runs(system: TaskSystem, api: Api) -> None:
    """`running`: it goes on; with `terminate` a child process is killed, and a thread asked to stop."""
    with system.worker():
        let, asked = (send(api, "wait_for", system.path(name))["id"] for name in ("let", "asked"))
        killed = send(api, "wait_in_child", system.path("killed"))["id"]
        for name in ("let", "asked", "killed"):
            has_begun(system, name)
        assert revoke(api, let) == "running"
        assert revoke(api, asked, terminate=True) == "running"
        assert revoke(api, killed, terminate=True) == "terminated"
        assert (read(api, killed, 10)["state"], read(api, killed)["reason"]) == ("REVOKED", "terminated")
        assert read(api, asked, 10)["ready"]
        assert read(api, let, 10)["ready"]


def test_revoking_one_that_has_ended_is_too_late(system: TaskSystem, api: Api) -> None:
    """Its state stays."""
    with system.worker():
        task_id = send(api, "add", 1)["id"]
        read(api, task_id, 10)
        assert revoke(api, task_id, terminate=True) == "too_late"
        assert read(api, task_id)["state"] == "SUCCESS"


@pytest.mark.parametrize("round_", range(5))
def test_revoking_races_with_a_start_and_an_end(system: TaskSystem, api: Api, round_: int) -> None:
    """Whichever comes first, what is answered is what has become of each."""
    with system.worker():
        ids = [send(api, "add", number)["id"] for number in range(40)]
        answers = api.call_together([Request("DELETE", f"/v1/tasks/{task_id}") for task_id in ids])
        for task_id, timed in zip(ids, answers, strict=True):
            task = read(api, task_id, 10)
            outcome = timed.answer.json["outcome"]
            if outcome == "revoked":
                assert (task["state"], task["deliveries"]) == ("REVOKED", 0)
            else:
                assert outcome in ("running", "too_late")
                assert task["state"] == "SUCCESS"


# large results


def test_a_large_result_has_an_address_of_its_own(system: TaskSystem, api: Api) -> None:
    """50 MiB; a small one is there too."""
    size = 50 * 1024 * 1024
    with system.worker():
        large = read(api, TASKS["blob"].delay(size).id, 25)
        small = read(api, send(api, "add", 1)["id"], 10)
    assert (large["successful"], large["result"]) == (True, None)
    assert large["result_url"] == f"/v1/tasks/{large['id']}/result"
    answer = api.call("GET", large["result_url"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert int(answer.headers["content-length"]) == size + 2
    assert answer.content == b'"' + b"x" * size + b'"'
    answer = api.call("GET", f"/v1/tasks/{small['id']}/result")
    assert (answer.status_code, answer.json) == (200, 1)


def test_there_may_be_no_result(system: TaskSystem, api: Api) -> None:
    """404 for one not ended, failed, or whose file is gone; null for one that returned nothing."""
    waiting = send(api, "add", 1, countdown=FAR)["id"]
    with system.worker():
        failed = fail(api)["id"]
        gone = read(api, TASKS["blob"].delay(100_000).id, 10)["id"]
        nothing = read(api, send(api, "echo", None)["id"], 10)["id"]
    for path in (system.folder / "store/payloads").rglob(f"{gone}.result.*"):
        path.unlink()
    for task_id in (waiting, failed, gone):
        problem_of(api.call("GET", f"/v1/tasks/{task_id}/result"), 404, "task-not-found")
    answer = api.call("GET", f"/v1/tasks/{nothing}/result")
    assert (answer.status_code, answer.content) == (200, b"null")


# doing again


@pytest.mark.parametrize("where", ["tasks", "dead"])
def test_a_failed_task_is_done_again_as_a_new_one(system: TaskSystem, api: Api, where: str) -> None:
    """The same arguments and options but for those of the past; the failed one stays as it is."""
    body = {"task": "fail", "args": ["again"], "priority": 7, "queue": "slow", "retries": 0, "expires": FAR}
    first = api.call("POST", "/v1/tasks", body).json
    with system.worker():
        failed = read(api, first["id"], 10)
    answer = api.call("POST", f"/v1/{where}/{failed['id']}/retry")
    assert answer.status_code == 202
    new = answer.json
    assert answer.headers["location"] == f"/v1/tasks/{new['id']}"
    assert new["id"] != failed["id"]
    assert (new["retry_of"], new["state"], new["expires"]) == (failed["id"], "PENDING", None)
    assert (new["task"], new["queue"], new["priority"]) == ("fail", "slow", 7)
    (message,) = api.tasks.ready("slow")
    assert (list(message.args), message.options["max_retries"]) == (["again"], 0)
    assert read(api, failed["id"]) == failed
    with system.worker():
        ended = read(api, new["id"], 10)
    assert (ended["state"], ended["retry_of"], ended["retries"]) == ("FAILURE", failed["id"], 0)
    again = api.call("POST", f"/v1/{where}/{failed['id']}/retry")
    assert (again.status_code, again.json) == (202, ended)
    system.callers.sender.forget(new["id"])
    problem = problem_of(api.call("POST", f"/v1/{where}/{failed['id']}/retry"), 409, "task-conflict")
    assert problem["detail"].startswith(f"the message of {failed['id']} is gone")


def test_what_has_not_failed_is_not_done_again(system: TaskSystem, api: Api) -> None:
    """409 naming its state."""
    waiting = send(api, "add", 1, countdown=FAR)["id"]
    with system.worker():
        done = read(api, send(api, "add", 1)["id"], 10)["id"]
    for task_id, state in ((waiting, "PENDING"), (done, "SUCCESS")):
        problem = problem_of(api.call("POST", f"/v1/tasks/{task_id}/retry"), 409, "task-conflict")
        assert problem["detail"] == f"{task_id} has not failed: {state}"


def test_an_id_given_again_is_another_task_to_do_again(system: TaskSystem, api: Api) -> None:
    """The one that was done again before is not taken for it."""
    news = []
    for _ in range(2):
        with system.worker():
            failed = fail(api, task_id="mine")
        news.append(api.call("POST", "/v1/tasks/mine/retry").json)
        assert news[-1]["retry_of"] == failed["id"] == "mine"
        system.callers.sender.forget("mine")
    assert news[0]["id"] != news[1]["id"]


def test_the_id_of_a_retry_may_be_taken(system: TaskSystem, api: Api) -> None:
    """By a caller, who knows how it is made: a conflict."""
    with system.worker():
        failed = fail(api)["id"]
        new = api.call("POST", f"/v1/tasks/{failed}/retry").json["id"]
        read(api, new, 10)
    system.callers.sender.forget(new)
    send(api, "add", 1, task_id=new)
    problem = problem_of(api.call("POST", f"/v1/tasks/{failed}/retry"), 409, "task-conflict")
    assert problem["detail"] == f"the id that its retry would have, {new}, is taken by another task"


def test_large_arguments_come_along(system: TaskSystem, api: Api) -> None:
    """The same file under the new id, and no longer under the old one; the API does not look into it."""
    text = "x" * 200_000
    failed = TASKS["fail"].delay(text)
    with system.worker():
        assert read(api, failed.id, 10)["failed"]
    (path,) = system.folder.glob(f"store/payloads/*/{failed.id}.*")
    before = path.stat().st_ino
    packed = path.read_bytes()
    path.write_bytes(b"no JSON")
    new = api.call("POST", f"/v1/tasks/{failed.id}/retry").json
    (path,) = system.folder.glob(f"store/payloads/*/{new['id']}.*")
    assert path.stat().st_ino == before
    path.write_bytes(packed)
    payloads = api.services.payloads
    assert (payloads.references(failed.id), len(payloads.references(new["id"]))) == ([], 1)
    with system.worker():
        assert read(api, new["id"], 10)["error"]["message"] == text[:4_000]


def test_arguments_that_are_gone_are_a_conflict(system: TaskSystem, api: Api) -> None:
    """409, and the dead letter stays."""
    failed = TASKS["fail"].delay("x" * 200_000)
    with system.worker():
        assert read(api, failed.id, 10)["failed"]
    api.services.payloads.remove(*api.services.payloads.references(failed.id))
    problem_of(api.call("POST", f"/v1/tasks/{failed.id}/retry"), 409, "task-conflict")
    assert [task["id"] for task in api.call("GET", "/v1/dead").json["items"]] == [failed.id]


def test_many_at_once_make_one_new_task(system: TaskSystem, api: Api) -> None:
    """All are told of it, and one reference to its arguments is left."""
    text = "x" * 200_000
    with system.worker():
        failed = read(api, TASKS["fail"].delay(text).id, 10)["id"]
    answers = [timed.answer for timed in api.call_together([Request("POST", f"/v1/tasks/{failed}/retry")] * 8)]
    assert [answer.status_code for answer in answers] == [202] * 8
    (new,) = {answer.json["id"] for answer in answers}
    assert len(api.tasks.ready("default")) == 1
    assert (len(system.payloads(new)), system.payloads(failed)) == (1, [])
    with system.worker():
        assert read(api, new, 10)["error"]["message"] == text[:4_000]


@pytest.mark.parametrize("damage", [slice(0), slice(-2)])
def test_a_damaged_dead_letter_can_only_be_thrown_away(system: TaskSystem, api: Api, damage: slice) -> None:
    """Listed, not done again, and discarded with its large arguments."""
    task_id = TASKS["fail"].apply_async(("x" * 200_000,)).id
    messages = RedisKeys(api.services.settings.namespace).key("messages")
    client = system.redis.client()
    client.hset(messages, pack_id(task_id), (client.hget(messages, pack_id(task_id)) or b"")[damage])
    problem = problem_of(api.call("DELETE", f"/v1/tasks/{task_id}"), 409, "task-conflict")
    assert problem["detail"] == "what this task does is not known: it can only be looked at"
    with system.worker():
        assert read(api, task_id, 10)["failed"]
    assert [task["id"] for task in api.call("GET", "/v1/dead").json["items"]] == [task_id]
    problem = problem_of(api.call("POST", f"/v1/dead/{task_id}/retry"), 409, "task-conflict")
    assert problem["detail"] == f"the message of {task_id} cannot be read: it can only be discarded"
    assert api.call("DELETE", f"/v1/dead/{task_id}").status_code == 200
    assert api.call("GET", "/v1/dead").json["items"] == []
    assert system.payloads(task_id) == []


def test_a_dead_letter_of_an_internal_task_can_be_thrown_away(system: TaskSystem, api: Api) -> None:
    """That changes nothing of what has become of the task."""
    with system.worker():
        failed = read(api, reject.delay().id, 10)
    assert api.call("DELETE", f"/v1/dead/{failed['id']}").status_code == 200
    assert read(api, failed["id"]) == failed
    assert api.call("GET", "/v1/dead").json["items"] == []


def test_a_dead_letter_is_thrown_away(system: TaskSystem, api: Api) -> None:
    """How it has ended stays known; its large arguments are gone."""
    with system.worker():
        failed = TASKS["fail"].delay("x" * 200_000).id
        before = read(api, failed, 10)
    answer = api.call("DELETE", f"/v1/dead/{failed}")
    assert (answer.status_code, answer.json) == (200, {"outcome": "discarded"})
    assert read(api, failed) == before
    assert api.call("GET", "/v1/dead").json == {"items": [], "next_cursor": None}
    assert api.services.payloads.references(failed) == []
    problem_of(api.call("DELETE", f"/v1/dead/{failed}"), 404, "task-not-found")


# what there is to run them


def test_the_catalog_says_what_each_task_takes(api: Api) -> None:
    """JSON Schema by the names of its arguments; whether it may be sent."""
    tasks = {task["name"]: task for task in api.call("GET", "/v1/catalog").json["items"]}
    assert tasks.keys() == TASKS.keys()
    add = tasks["add"]
    assert (add["public"], add["queue"], add["priority"], add["retries"]) == (True, "default", 5, 3)
    assert (add["description"], add["time_limit"], add["autoretry_for"]) == ("x + y.", None, [])
    assert add["arguments"] == {
        "title": "add",
        "type": "object",
        "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
        "required": ["x"],
        "additionalProperties": False,
    }
    assert (tasks["spin"]["public"], tasks["spin"]["time_limit"]) == (False, 0.3)
    assert tasks["crash_once"]["autoretry_for"] == ["WorkerLost", "TimeLimitExceeded"]
    later = tasks["later"]["arguments"]
    assert later["properties"]["at"] == {"type": "string"}
    assert later["properties"]["point"] == {"$ref": "#/$defs/Point"}
    assert later["$defs"]["Point"]["required"] == ["x", "y"]


def test_the_queues_say_what_waits(system: TaskSystem, api: Api) -> None:
    """By priority, later, running, dead; how long the oldest has waited, and when the next is due."""
    with system.worker(threads=1):
        fail(api)
    for fields in ({"priority": 9}, {"priority": 0}, {"priority": 0}, {"countdown": FAR}):
        send(api, "add", 1, **fields)
    queues = {queue["name"]: queue for queue in api.call("GET", "/v1/queues").json["items"]}
    assert queues.keys() == {"default", "slow"}
    default = queues["default"]
    assert (default["ready"], default["ready_by_priority"]) == (3, [2, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    assert (default["alone"], default["due"], default["running"], default["dead"]) == (0, 1, 0, 1)
    assert 0 <= default["oldest_ready_s"] < 10
    assert FAR - 10 < default["next_due_s"] <= FAR
    assert (queues["slow"]["ready"], queues["slow"]["oldest_ready_s"], queues["slow"]["next_due_s"]) == (0, None, None)


def test_a_worker_is_listed_while_it_lives(system: TaskSystem, api: Api) -> None:
    """From its start to its clean end."""

    def workers() -> list[dict[str, Any]]:
        return list(api.call("GET", "/v1/workers").json["items"])

    assert workers() == []
    with system.worker(threads=3):
        (worker,) = eventually(workers)
        assert (worker["threads"], worker["kind"], worker["queues"]) == (3, "threads", ["default", "slow"])
        assert worker["started_at"] <= worker["seen_at"]
        assert isinstance(worker["pid"], int) and worker["host"] and worker["running"] == 0
        with system.worker(threads=1):
            eventually(lambda: len(workers()) == 2)
            assert workers()[0]["id"] == worker["id"]
        assert [each["id"] for each in workers()] == [worker["id"]]
    assert workers() == []


def test_a_killed_worker_is_not_listed_for_long(tmp_path: Path, own_redis: PrivateRedis) -> None:
    """15 s after `kill -9` it is gone; what it ran is shown until then."""
    with task_system(own_redis, tmp_path) as system, system.api() as api, system.worker_process() as worker:
        send(api, "wait_for", system.path("never"))
        has_begun(system, "never")
        eventually(lambda: '"running":1,' in api.call("GET", "/v1/workers").text)
        worker.kill()
        eventually(lambda: api.call("GET", "/v1/workers").json.get("items") == [], within_s=15)


def test_a_worker_that_says_what_is_not_understood_is_passed_over(system: TaskSystem, api: Api) -> None:
    """Of a version to come, say; the others are listed."""
    with system.worker():
        eventually(lambda: api.call("GET", "/v1/workers").json["items"])
        announce_nonsense(system.redis.client())
        answer = api.call("GET", "/v1/workers")
    assert answer.status_code == 200
    assert [worker["kind"] for worker in answer.json["items"]] == ["threads"]


# under a key


def keyed(api: Api, key: str, body: dict[str, Any], **more: Any) -> Result:
    return api.call("POST", "/v1/tasks", body, headers={"Idempotency-Key": key}, **more)


def test_a_repeat_is_answered_with_the_same_task(system: TaskSystem, api: Api) -> None:
    """202 each time, as the task stands then; it is done once."""
    body = {"task": "add", "args": [1]}
    first, second = keyed(api, "a", body), keyed(api, "a", body)
    assert (first.status_code, second.status_code, second.json) == (202, 202, first.json)
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["location"] == first.headers["location"]
    with system.worker():
        done = read(api, first.json["id"], 10)
    assert keyed(api, "a", body).json == done
    assert done["deliveries"] == 1


def test_many_at_once_under_a_key_make_one_task(api: Api) -> None:
    """Whoever comes first sends it."""
    request = Request("POST", "/v1/tasks", {"task": "add", "args": [1]}, headers={"Idempotency-Key": "a"})
    answers = [timed.answer for timed in api.call_together([request] * 20)]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert len(api.tasks.ready("default")) == 1


def test_another_body_under_the_same_key_is_refused(api: Api) -> None:
    """422 naming the header; a key of a refused request is not used up."""
    problem_of(keyed(api, "a", {"task": "add", "args": ["one"]}), 422, "invalid-input")
    assert keyed(api, "a", {"task": "add", "args": [1]}).status_code == 202
    problem = problem_of(keyed(api, "a", {"task": "add", "args": [2]}), 422, "invalid-input")
    assert messages_of(problem).keys() == {"Idempotency-Key"}
    assert len(api.tasks.ready("default")) == 1


def test_a_key_and_an_id_of_one_s_own_exclude_each_other(api: Api) -> None:
    """The key gives the id."""
    problem = problem_of(keyed(api, "a", {"task": "add", "args": [1], "task_id": "mine"}), 422, "invalid-input")
    assert messages_of(problem) == {"task_id": "leave it out: the Idempotency-Key gives the task its id"}


def test_the_end_of_a_keyed_task_outlives_its_key(system: TaskSystem, api: Api) -> None:
    """Done, failed, revoked or expired: a repeat must not find it forgotten."""
    bodies: dict[str, dict[str, Any]] = {
        "done": {"task": "add", "args": [1]},
        "failed": {"task": "fail"},
        "revoked": {"task": "add", "args": [2], "countdown": FAR},
        "expired": {"task": "add", "args": [3], "expires": 0},
    }
    ids = {key: keyed(api, key, body).json["id"] for key, body in bodies.items()}
    assert revoke(api, ids["revoked"]) == "revoked"
    with system.worker():
        for task_id in ids.values():
            assert read(api, task_id, 10)["ready"]
    ends = api.services.redis.keys("{invigil}=*")
    assert len(ends) == 4
    assert all(api.services.redis.pttl(key) > 2 * 24 * 3_600_000 for key in ends)
    assert {key: keyed(api, key, body).json["id"] for key, body in bodies.items()} == ids


def test_the_same_call_need_not_be_written_the_same(api: Api) -> None:
    """The order of names does not count, at any depth, nor does the zone that an instant is written in."""
    bodies = [
        b'{"task":"echo","kwargs":{"value":{"a":1,"b":[{"c":1,"d":2}]}},"eta":"2030-01-01T10:00:00Z","retries":0}',
        b'{"retries":0,"eta":"2030-01-01T12:00:00+02:00","kwargs":{"value":{"b":[{"d":2,"c":1}],"a":1}},"task":"echo"}',
    ]
    answers = [
        api.call("POST", "/v1/tasks", body=body, headers={"Idempotency-Key": "a"}).json for body in (*bodies, *bodies)
    ]
    assert len({answer["id"] for answer in answers}) == 1
    out_of_the_calendar = {"task": "add", "args": [1], "expires": "9999-12-31T23:59:59-14:00"}
    problem = problem_of(keyed(api, "b", out_of_the_calendar), 422, "invalid-input")
    assert messages_of(problem).keys() == {"expires"}


def test_a_claim_that_cannot_be_read_spoils_no_other(system: TaskSystem, api: Api) -> None:
    """Its own request is a 503 until somebody has looked at it."""
    keyed(api, "damaged", {"task": "add", "args": [1]})
    for claim in (system.folder / "store/idempotency").rglob("*"):
        if claim.is_symlink():
            claim.unlink()
            claim.symlink_to("nonsense")
    headers = [{"Idempotency-Key": key} for key in ("a", "damaged", "b")]
    body = {"task": "add", "args": [1]}
    answers = api.call_together([Request("POST", "/v1/tasks", body, headers=each) for each in headers])
    assert [timed.answer.status_code for timed in answers] == [202, 503, 202]


def test_what_redis_did_not_take_a_repeat_sends(tmp_path: Path, own_redis: PrivateRedis) -> None:
    """503, and then 202 under the id that was kept for it."""
    body = {"task": "add", "args": [1]}
    with task_system(own_redis, tmp_path) as system, system.api() as api:
        own_redis.kill()
        problem_of(keyed(api, "a", body), 503, "broker-unavailable")
        own_redis.start()
        eventually(lambda: keyed(api, "a", body).status_code == 202, within_s=5)
        assert keyed(api, "a", body).headers["idempotent-replayed"] == "true"
        assert len(api.tasks.ready("default")) == 1


def test_a_redis_that_lost_everything_has_it_sent_again(api: Api) -> None:
    """Under the same id."""
    body = {"task": "add", "args": [1]}
    first = keyed(api, "a", body).json
    api.services.redis.flushall()
    again = keyed(api, "a", body)
    assert (again.status_code, again.json["id"]) == (202, first["id"])
    assert [message.message_id for message in api.tasks.ready("default")] == [first["id"]]


# Redis away


def test_without_redis_every_call_is_a_503(tmp_path: Path, own_redis: PrivateRedis) -> None:
    """Within a second, and again 202 when it is back."""
    with task_system(own_redis, tmp_path) as system, system.api() as api:
        task_id = send(api, "add", 1)["id"]
        own_redis.kill()
        for method, path, body in [
            ("POST", "/v1/tasks", {"task": "add", "args": [1]}),
            ("GET", f"/v1/tasks/{task_id}?wait=5", None),
            ("GET", f"/v1/tasks/{task_id}/result", None),
            ("GET", "/v1/tasks", None),
            ("DELETE", f"/v1/tasks/{task_id}", None),
            ("POST", f"/v1/tasks/{task_id}/retry", None),
            ("GET", "/v1/dead", None),
            ("DELETE", f"/v1/dead/{task_id}", None),
            ("GET", "/v1/queues", None),
            ("GET", "/v1/workers", None),
        ]:
            (timed,) = api.call_together([Request(method, path, body)])
            problem_of(timed.answer, 503, "broker-unavailable")
            assert timed.answer.headers["retry-after"] == "1"
            assert timed.took_s < 1
        assert api.call("GET", "/v1/catalog").status_code == 200
        ready = api.call("GET", "/readyz").json
        assert (ready["status"], ready["checks"]["redis"]["status"]) == ("ready", "degraded")
        own_redis.start()
        eventually(lambda: api.call("GET", f"/v1/tasks/{task_id}").status_code == 200, within_s=5)


# refusals of each kind


BAD_BODIES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "task", "this field is required: the name of a public task"),
    ({"task": None}, "task", "must be the name of a public task"),
    ({"task": 3}, "task", "must be the name of a public task"),
    ({"task": "nobody"}, "task", "there is no such task; tasks that can be sent: add, "),
    ({"task": "add", "args": 1}, "args", "must be a list, or null"),
    ({"task": "add", "kwargs": []}, "kwargs", "must be an object, or null"),
    ({"task": "add"}, "kwargs.x", "this argument is required"),
    ({"task": "add", "args": ["1"]}, "args[0]", "Expected `int`, got `str`"),
    ({"task": "add", "args": [1], "kwargs": {"y": 1.5}}, "kwargs.y", "Expected `int`, got `float`"),
    ({"task": "add", "args": [1, 2, 3]}, "args", "are too many; the arguments are: x, y"),
    ({"task": "add", "args": [1], "kwargs": {"x": 1}}, "kwargs.x", "is given among the args already"),
    ({"task": "add", "args": [1], "kwargs": {"z": 1}}, "kwargs.z", "there is no such argument; there are: x, y"),
    ({"task": "echo", "args": [2**64]}, "args[0]", "a whole number must fit into 64 bits"),
    ({"task": "ignore", "countdown": -1}, "countdown", "must be a number of seconds from 0 to 316224000, or null"),
    ({"task": "ignore", "countdown": "1"}, "countdown", "must be a number of seconds from 0 to 316224000, or null"),
    ({"task": "ignore", "eta": "2026-11-20T10:45:00"}, "eta", "must be an instant with a time zone"),
    ({"task": "ignore", "eta": "tomorrow"}, "eta", "must be an instant with a time zone"),
    ({"task": "ignore", "eta": 1_800_000_000}, "eta", "must be an instant with a time zone"),
    ({"task": "ignore", "eta": "2060-01-01T00:00:00Z"}, "eta", "must be at most 3660 days ahead"),
    ({"task": "ignore", "eta": "2030-01-01T00:00:00Z", "countdown": 1}, "eta", "give countdown or eta, not both"),
    ({"task": "ignore", "expires": -1}, "expires", "must be a number of seconds from 0 to 316224000, or an instant"),
    ({"task": "ignore", "expires": "2026-11-20"}, "expires", "must be a number of seconds"),
    ({"task": "ignore", "expires": True}, "expires", "must be a number of seconds"),
    ({"task": "ignore", "queue": "nowhere"}, "queue", "must be one of default, slow"),
    ({"task": "ignore", "queue": ""}, "queue", "must be the name of a queue"),
    ({"task": "ignore", "priority": 10}, "priority", "must be a whole number from 0 to 9"),
    ({"task": "ignore", "priority": 5.5}, "priority", "must be a whole number from 0 to 9"),
    ({"task": "ignore", "retries": -1}, "retries", "must be a whole number from 0 to 1000"),
    ({"task": "ignore", "time_limit": 0}, "time_limit", "must be a number of seconds from 0.001 to 604800"),
    ({"task": "ignore", "soft_time_limit": 9, "time_limit": 2}, "soft_time_limit", "must be shorter than the time_li"),
    ({"task": "ignore", "task_id": "a b"}, "task_id", "must be 1 to 100 of the characters"),
    ({"task": "ignore", "task_id": "x" * 101}, "task_id", "must be 1 to 100 of the characters"),
    ({"task": "ignore", "task_id": "x\n"}, "task_id", "must be 1 to 100 of the characters"),
    ({"task": "ignore", "link": "x"}, "link", "there is no such field; allowed are: task, args"),
]


@pytest.mark.parametrize(
    ("body", "field", "message"), BAD_BODIES, ids=[json.dumps(body)[:60] for body, *_ in BAD_BODIES]
)
def test_a_bad_field_is_named(api: Api, body: dict[str, Any], field: str, message: str) -> None:
    """422, and nothing has changed."""
    before = api.state()
    problem = problem_of(api.call("POST", "/v1/tasks", body), 422, "invalid-input")
    (found,) = messages_of(problem).items()
    assert (found[0], found[1][: len(message)]) == (field, message)
    assert api.state() == before


def test_a_field_is_given_once_in_kwargs_too(api: Api) -> None:
    """Nobody should have to know that the last one counts."""
    answer = api.call("POST", "/v1/tasks", body=b'{"task":"add","kwargs":{"x":1,"x":2}}')
    assert messages_of(problem_of(answer, 422, "invalid-input")) == {"x": "give this field once"}


def test_deep_arguments_are_refused(api: Api) -> None:
    """A hundred levels are sent, more are not, and a body of brackets is no JSON to us."""
    refused = {422, 400}
    around_python_s_limit = dict.fromkeys(range(900, 1_050, 3), refused)
    for depth, statuses in ({90: {202}, 150: {422}, 1_500: {400}, 30_000: {400}} | around_python_s_limit).items():
        body = b'{"task":"echo","args":[' + b"[" * depth + b"]" * depth + b"]}"
        assert api.call("POST", "/v1/tasks", body=body).status_code in statuses, depth


def test_one_bad_call_does_not_spoil_others_that_come_with_it(api: Api) -> None:
    """They are sent together; each is answered for itself."""
    send(api, "add", 1, task_id="taken")
    bodies: list[tuple[dict[str, Any], int]] = [
        ({"task": "add", "args": [1]}, 202),
        ({"task": "add", "args": ["one"]}, 422),
        ({"task": "add", "args": [2], "task_id": "taken"}, 409),
        ({"task": "echo", "args": [2**64]}, 422),
        ({"task": "add", "args": [3], "task_id": "free"}, 202),
    ]
    plain = [Request("POST", "/v1/tasks", body) for body, _ in bodies]
    keyed_ = [
        Request("POST", "/v1/tasks", body, headers={"Idempotency-Key": f"{number}"})
        for number, (body, _) in enumerate(bodies * 6)
        if "task_id" not in body
    ]
    answers = [timed.answer.status_code for timed in api.call_together([*plain, *keyed_])]
    expected = [status for body, status in bodies * 6 if "task_id" not in body]
    assert answers == [*(status for _, status in bodies), *expected]
    assert len(api.tasks.ready("default")) == 1 + 2 + 6


def test_all_bad_fields_are_named_at_once(api: Api) -> None:
    """Of the options; arguments are looked at once those are good."""
    body = {"task": "add", "countdown": -1, "priority": 10, "task_id": ""}
    problem = problem_of(api.call("POST", "/v1/tasks", body), 422, "invalid-input")
    assert messages_of(problem).keys() == {"countdown", "priority", "task_id"}


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("GET", "/v1/tasks/x?wait=-1", "wait"),
        ("GET", "/v1/tasks/x?wait=25.1", "wait"),
        ("GET", "/v1/tasks/x?wait=", "wait"),
        ("GET", "/v1/tasks/x?wait=1e9", "wait"),
        ("GET", "/v1/tasks/x?wait=nan", "wait"),
        ("GET", "/v1/tasks/x?wait=1&wait=2", "wait"),
        ("GET", "/v1/tasks/x?timeout=1", "timeout"),
        ("DELETE", "/v1/tasks/x?terminate=yes", "terminate"),
        ("DELETE", "/v1/tasks/x?terminate=", "terminate"),
        ("POST", "/v1/tasks?task=add", "task"),
        ("POST", "/v1/tasks/x/retry?a=1", "a"),
        ("GET", "/v1/tasks/x/result?wait=1", "wait"),
        ("GET", "/v1/tasks?state=DONE", "state"),
        ("GET", "/v1/tasks?state=pending", "state"),
        ("GET", "/v1/tasks?state=", "state"),
        ("GET", "/v1/tasks?queue=nowhere", "queue"),
        ("GET", "/v1/tasks?limit=0", "limit"),
        ("GET", "/v1/tasks?limit=201", "limit"),
        ("GET", "/v1/tasks?cursor=!", "cursor"),
        ("GET", "/v1/tasks?cursor=abc", "cursor"),
        ("GET", "/v1/tasks?cursor=AAAA", "cursor"),
        ("GET", "/v1/dead?queue=nowhere", "queue"),
        ("GET", "/v1/dead?state=FAILURE", "state"),
        ("DELETE", "/v1/dead/x?force=1", "force"),
        ("GET", "/v1/queues?a=1", "a"),
        ("GET", "/v1/workers?a=1", "a"),
        ("GET", "/v1/catalog?a=1", "a"),
    ],
)
def test_a_bad_parameter_is_named(api: Api, method: str, path: str, field: str) -> None:
    """422 naming it, whether or not there is such a task."""
    problem = problem_of(api.call(method, path, {"task": "add"} if path == "x" else None), 422, "invalid-input")
    assert messages_of(problem).keys() == {field}


def test_states_are_celery_s() -> None:
    """What a list may be asked for."""
    assert set(State) == {"PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "IGNORED", "REVOKED"}


def test_a_lost_worker_is_told(system: TaskSystem, api: Api) -> None:
    """A child process that crashes fails its task alone."""
    with system.worker():
        lost, fine = crash.delay().id, add_in_child.delay(1, 2).id
        assert read(api, lost, 10)["error"]["type"] == "WorkerLost"
        assert read(api, fine, 10)["result"] == 3
