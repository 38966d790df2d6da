"""Lists of tasks over REST: of every state and queue, page by page while tasks come, run and end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.broker.engine import Place
from shared.broker.record import pack_id
from shared.redis_keys import RedisKeys
from shared.tasks.listing import LOOKED_AT, LOOKED_AT_BYTES, Cursor, TaskLists, TaskPage, TaskQuery
from tests.support.api import Api
from tests.support.redis_server import PrivateRedis
from tests.support.task_bodies import add, blob, fail, ignore, wait_for
from tests.support.task_system import TaskSystem, task_system
from tests.support.waiting import eventually

FAR = 3_600
KEYS = RedisKeys("invigil")


@pytest.fixture
def system(tmp_path: Path, redis_server: PrivateRedis) -> Iterator[TaskSystem]:
    with task_system(redis_server, tmp_path) as system:
        yield system


@pytest.fixture
def api(system: TaskSystem) -> Iterator[Api]:
    with system.api() as api:
        yield api


def page(api: Api, path: str = "/v1/tasks", **asked: object) -> dict[str, Any]:
    query = "&".join(f"{name}={value}" for name, value in asked.items())
    answer = api.call("GET", f"{path}?{query}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json)


def pages(api: Api, path: str = "/v1/tasks", **asked: object) -> list[dict[str, Any]]:
    """The items of all pages."""
    found = page(api, path, **asked)
    items = list(found["items"])
    while found["next_cursor"]:
        found = page(api, path, **asked, cursor=found["next_cursor"])
        items += found["items"]
    return items


def ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in items]


def end(api: Api, *task_ids: str) -> None:
    """Waits for their ends."""
    for task_id in task_ids:
        assert api.call("GET", f"/v1/tasks/{task_id}?wait=20").json["ready"]


def test_nothing_is_an_empty_page(api: Api) -> None:
    """And there is no next one."""
    for path in ("/v1/tasks", "/v1/dead"):
        assert page(api, path) == {"items": [], "next_cursor": None}


def test_tasks_of_every_state_are_listed(system: TaskSystem, api: Api) -> None:
    """What runs, what is ready, what is due later, what has ended, the last end first."""
    with system.worker(threads=1):
        done = add.delay(1).id
        end(api, done)
        failed = fail.delay().id
        end(api, failed)
        ignored = ignore.delay().id
        end(api, ignored)
        running = wait_for.delay(system.path("go")).id
        eventually((system.folder / "go.begun").exists)
        later = add.apply_async((1,), countdown=FAR).id
        sooner = add.apply_async((1,), countdown=FAR / 2, queue="slow").id
        low = add.apply_async((1,), priority=0).id
        first, second = (add.apply_async((1,), priority=9).id for _ in range(2))
        revoked = add.apply_async((1,), countdown=FAR).id
        api.call("DELETE", f"/v1/tasks/{revoked}")
        everything = [running, first, second, low, sooner, later, revoked, ignored, failed, done]
        assert ids(pages(api)) == everything
        for limit in (1, 2, 3):
            assert ids(pages(api, limit=limit)) == everything
        of_state = {
            "STARTED": [running],
            "PENDING": [first, second, low, sooner, later],
            "RETRY": [],
            "SUCCESS": [done],
            "FAILURE": [failed],
            "IGNORED": [ignored],
            "REVOKED": [revoked],
        }
        for state, expected in of_state.items():
            for limit in (1, 50):
                assert ids(pages(api, state=state, limit=limit)) == expected, state
        assert ids(pages(api, queue="slow")) == [sooner]
        assert ids(pages(api, task="wait_for")) == [running]
        assert ids(pages(api, task="nobody")) == []
        assert ids(pages(api, task="add", queue="default", state="PENDING", limit=1)) == [first, second, low, later]
        system.write("go")
        end(api, running, first, second, low)


def test_items_are_as_each_task_is_read(system: TaskSystem, api: Api) -> None:
    """All fields, and no arguments: they may hold secrets."""
    with system.worker():
        done, failed = add.delay(1).id, fail.delay("shown as the error").id
        end(api, done, failed)
    add.apply_async((123_456_789,), countdown=FAR, expires=2 * FAR)
    for item in pages(api):
        assert item == api.call("GET", f"/v1/tasks/{item['id']}").json
    assert "123456789" not in api.call("GET", "/v1/tasks").text


def test_dead_letters_are_listed_the_last_one_first(system: TaskSystem, api: Api) -> None:
    """Across queues, or of one."""
    with system.worker(threads=1):
        failed = []
        for number in range(5):
            failed.append(fail.apply_async((str(number),), queue=("default", "slow")[number % 2]).id)
            end(api, failed[-1])
    for limit in (1, 2, 50):
        assert ids(pages(api, "/v1/dead", limit=limit)) == failed[::-1]
        assert ids(pages(api, "/v1/dead", queue="slow", limit=limit)) == [failed[3], failed[1]]
    assert pages(api, "/v1/dead")[0]["error"]["message"] == "4"
    api.call("DELETE", f"/v1/dead/{failed[2]}")
    assert failed[2] not in ids(pages(api, "/v1/dead"))
    assert failed[2] in ids(pages(api))


def test_a_page_goes_on_where_the_last_one_ended_though_that_task_is_gone(api: Api) -> None:
    """The one that the cursor names, and others around it, have gone; new ones have come in front and behind."""
    sent = [add.apply_async((number,), countdown=FAR + number).id for number in range(10)]
    first = page(api, limit=4)
    assert ids(first["items"]) == sent[:4]
    for task_id in (sent[1], sent[3], sent[4]):
        api.services.sender.engine.cancel([task_id])
    add.apply_async((0,), countdown=FAR / 2)
    last = add.apply_async((0,), countdown=3 * FAR).id
    second = page(api, limit=4, state="PENDING", cursor=first["next_cursor"])
    assert ids(second["items"]) == sent[5:9]
    third = page(api, limit=4, state="PENDING", cursor=second["next_cursor"])
    assert (ids(third["items"]), third["next_cursor"]) == ([sent[9], last], None)


@pytest.mark.parametrize("last_first", [False, True])
def test_places_of_one_score_are_told_apart_by_id(api: Api, redis_server: PrivateRedis, last_first: bool) -> None:
    """A million may be due at one instant. Ids sort by their bytes, whatever the locale; any of them may be gone."""
    client, engine = redis_server.client(), api.services.sender.engine
    which = "recent" if last_first else "due_set"
    names = [*(f"task-{number}" for number in range(300)), "A", "a", "B", "~", "0.9", "0:9", "z" * 100]
    order = sorted(names, key=pack_id, reverse=last_first)
    client.zadd(KEYS.key(which, "default"), {pack_id(name): 7 for name in names})
    client.zadd(KEYS.key(which, "slow"), {pack_id("before"): 6, pack_id("after"): 8})
    whole = ["after", *order, "before"] if last_first else ["before", *order, "after"]
    scores = {"before": 6, "after": 8}
    for place, name in enumerate(whole):
        after = Place(scores.get(name, 7), name)
        expected = whole[place + 1 : place + 6]
        assert [
            each.id for each in engine.page(which, ("default", "slow"), 5, after, last_first=last_first)
        ] == expected
    client.zrem(KEYS.key(which, "default"), *(pack_id(name) for name in order[::2]))
    for place, name in enumerate(order):
        found = engine.page(which, ("default",), 1, Place(7, name), last_first=last_first)
        expected = [other for other in order[place + 1 :] if other in order[1::2]][:1]
        assert [each.id for each in found] == expected


def test_what_runs_is_listed_by_id_however_often_its_lease_is_renewed(api: Api, redis_server: PrivateRedis) -> None:
    """No task is missed or seen twice while leases are prolonged between the pages."""
    engine, client = api.services.sender.engine, redis_server.client()
    sent = [add.delay(number).id for number in range(20)]
    leases = KEYS.key("leases", "default")
    lists, seen, after = TaskLists(engine), [], None
    for number in range(20):
        client.zadd(leases, {pack_id(sent[number]): 1_000 + number})
    for round_ in range(20):
        found: TaskPage = lists.tasks(("default",), TaskQuery(limit=3, task="add", after=after))
        seen += [state.id for state in found.states]
        client.zincrby(leases, 100 + round_, pack_id(sent[round_]))
        after = found.next
        if after is None or after.section > 0:
            break
    assert set(sent) <= set(seen)
    assert seen[:20] == sorted(sent)


def test_a_page_looks_at_a_thousand_tasks_at_most(api: Api) -> None:
    """It may be empty then, and has a cursor that leads on."""
    tasks = api.services.sender
    sent = [add.apply_async((number,), countdown=FAR + number / 1000).id for number in range(LOOKED_AT + 5)]
    last = ignore.apply_async(countdown=2 * FAR).id
    first = page(api, task="ignore")
    assert first["items"] == []
    second = page(api, task="ignore", cursor=first["next_cursor"])
    assert (ids(second["items"]), second["next_cursor"]) == ([last], None)
    assert len(tasks.engine.look_up_many(sent)) == LOOKED_AT + 5


def test_pages_of_large_results_are_short(system: TaskSystem, api: Api, redis_server: PrivateRedis) -> None:
    """In bytes, as answered and as read from Redis, also where nothing matches; all are found page by page."""
    with system.worker():
        sent = [blob.delay(60_000).id for _ in range(60)]
        end(api, *sent)
    client, small_enough = redis_server.client(), 2.5 * LOOKED_AT_BYTES
    found, cursor = [], ""
    while cursor is not None:
        asked = f"cursor={cursor}&" if cursor else ""
        read_before = client.info("stats")["total_net_output_bytes"]
        answer = api.call("GET", f"/v1/tasks?{asked}limit=200")
        assert client.info("stats")["total_net_output_bytes"] - read_before < small_enough
        assert len(answer.content) < small_enough
        found += ids(answer.json["items"])
        cursor = answer.json["next_cursor"]
    assert sorted(found) == sorted(sent)
    read_before = client.info("stats")["total_net_output_bytes"]
    nothing = page(api, task="nobody")
    assert client.info("stats")["total_net_output_bytes"] - read_before < small_enough
    assert nothing["items"] == [] and nothing["next_cursor"] is not None
    assert pages(api, task="nobody") == []


def test_ends_that_are_forgotten_are_passed_over(system: TaskSystem, api: Api) -> None:
    """Their ids may still be among the recent ones."""
    with system.worker():
        sent = [add.delay(number).id for number in range(6)]
        end(api, *sent)
    for task_id in sent[::2]:
        api.services.redis.delete(KEYS.key("ended", pack_id(task_id)))
    assert set(ids(pages(api, limit=1))) == set(sent[1::2])


def test_a_record_that_cannot_be_read_is_listed_all_the_same(api: Api) -> None:
    """By its id and state; it becomes a dead letter when a worker meets it."""
    task_id = add.delay(1).id
    api.services.redis.hset(KEYS.key("messages").decode(), pack_id(task_id), b"5")
    (item,) = pages(api)
    assert (item["id"], item["state"], item["task"]) == (task_id, "PENDING", None)


def test_pages_hold_while_tasks_run(system: TaskSystem, api: Api) -> None:
    """Paged again and again while 200 tasks are done: no error, no task twice in a page, and all ended in the end."""
    sent = {add.delay(number).id for number in range(200)}
    with system.worker(threads=4):
        while True:
            items = pages(api, limit=20)
            for begin in range(0, len(items), 20):
                some = ids(items[begin : begin + 20])
                assert len(set(some)) == len(some)
            if all(item["ready"] for item in items) and len(items) == 200:
                break
    assert set(ids(pages(api))) == sent


def test_a_cursor_of_another_list_does_no_harm(api: Api) -> None:
    """Whatever section and place it names."""
    add.apply_async((1,), countdown=FAR)
    lists, queues = TaskLists(api.services.sender.engine), ("default",)
    for section in (0, 5, 12, 13, 99):
        for place in (Place(0, "x"), Place(2**53 - 1, "\0"), Place(7, "Ä")):
            after = Cursor(section, place)
            assert len(lists.tasks(queues, TaskQuery(limit=5, after=after)).states) <= 1
            assert lists.dead_letters(queues, TaskQuery(limit=5, after=after)).states == []
