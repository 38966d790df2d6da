"""A Redis whose memory is full: nothing new is taken in, and what there is goes on being worked off."""

import pytest

from shared.broker.states import Outcome, State
from shared.errors import BrokerUnavailable
from tests.support.engines import FAR, QUEUE, EngineOnRedis, a_message, dead_letters
from tests.support.redis_server import PrivateRedis


@pytest.fixture
def bench(own_redis: PrivateRedis) -> EngineOnRedis:
    return EngineOnRedis(own_redis)


def fill(bench: EngineOnRedis) -> None:
    """From now on no memory is free; and as after a restart no script is loaded."""
    bench.client.config_set("maxmemory", 1)
    bench.client.script_flush()


def written(bench: EngineOnRedis) -> dict[bytes, object]:
    return {name: bench.client.dump(name) for name in bench.client.scan_iter()}


def test_what_adds_is_refused_and_writes_nothing(bench: EngineOnRedis) -> None:
    bench.send(task_id="due", due=FAR)
    dead = bench.run(task_id="dead")
    bench.worker.finish([dead], Outcome(State.FAILURE), is_dead=True)
    at = bench.now()
    fill(bench)
    before = written(bench)
    with pytest.raises(BrokerUnavailable, match="maxmemory"):
        bench.engine.enqueue([(a_message(), None)])
    with pytest.raises(BrokerUnavailable, match="maxmemory"):
        bench.engine.enqueue([(a_message(), FAR) for _ in range(1_000)])
    with pytest.raises(BrokerUnavailable, match="maxmemory"):
        bench.engine.move("due", None)
    with pytest.raises(BrokerUnavailable, match="maxmemory"):
        bench.engine.tick("sweep", at, a_message())
    with pytest.raises(BrokerUnavailable, match="maxmemory"):
        bench.engine.revive(QUEUE, "dead", a_message())
    assert written(bench) == before


def test_it_is_taken_in_again_once_there_is_room(bench: EngineOnRedis) -> None:
    """A tick that was refused has not been noted as sent."""
    at = bench.now()
    fill(bench)
    with pytest.raises(BrokerUnavailable):
        bench.engine.tick("sweep", at, a_message())
    bench.client.config_set("maxmemory", 0)
    assert bench.engine.tick("sweep", at, a_message()) == "sent"
    assert len(bench.ready()) == 1


def test_a_task_that_is_due_is_run_to_its_end(bench: EngineOnRedis) -> None:
    task_id = bench.send(due=FAR)
    bench.come_due([task_id])
    fill(bench)
    assert bench.worker.promote([QUEUE], wakes_another=True).waiting == [QUEUE]
    (delivery,) = bench.fetch()
    assert bench.worker.begin([delivery]) == ["run"]
    assert bench.worker.renew([delivery]) == ["held"]
    assert bench.worker.finish([delivery], Outcome(State.SUCCESS, result="x" * 1_000)) == ["finished"]
    assert bench.engine.look_up(task_id).result == "x" * 1_000
    assert bench.engine.stats([QUEUE])[QUEUE].is_empty


def test_a_task_that_fails_is_tried_again_and_becomes_a_dead_letter(bench: EngineOnRedis) -> None:
    delivery = bench.run(task_id="task")
    fill(bench)
    message = delivery.message.copy(options={"retries": 1, "traceback": "x" * 1_000})
    assert bench.worker.retry(delivery, message, None, State.RETRY, Outcome(State.RETRY)) == "retried"
    (delivery,) = bench.fetch()
    assert bench.worker.begin([delivery]) == ["run"]
    assert bench.worker.finish([delivery], Outcome(State.FAILURE), is_dead=True) == ["finished"]
    assert [state.id for state in dead_letters(bench.engine)] == ["task"]
    bench.engine.discard(QUEUE, "task")
    assert dead_letters(bench.engine) == []


def test_tasks_are_cancelled(bench: EngineOnRedis) -> None:
    """Which frees memory."""
    running = bench.run(task_id="running")
    for task_id, due in (("due", FAR), ("ready", None)):
        bench.send(task_id=task_id, due=due)
    fill(bench)
    assert bench.engine.cancel(["due", "ready", "running"], interrupts=True) == ["revoked", "revoked", "running"]
    assert bench.worker.renew([running]) == ["interrupt"]
    assert bench.worker.give_back([running]) == ["revoked"]
    assert bench.engine.stats([QUEUE])[QUEUE].is_empty


def test_tasks_come_back_from_workers_that_stop_or_die(bench: EngineOnRedis) -> None:
    lost, returned = bench.run(task_id="lost"), bench.hold(task_id="returned")
    bench.end_leases(["lost"])
    fill(bench)
    assert bench.worker.reap([QUEUE]) == [("lost", "lost")]
    assert bench.worker.give_back([returned]) == ["returned"]
    assert bench.ready() == ["lost", "returned"]
    assert bench.worker.begin([lost]) == ["lost"]


def test_a_queue_is_purged(bench: EngineOnRedis) -> None:
    bench.send()
    fill(bench)
    bench.engine.purge(QUEUE)
    assert bench.engine.stats([QUEUE])[QUEUE].is_empty
