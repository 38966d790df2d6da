"""The engine's scripts against a model in plain Python, on a real Redis, through whatever hypothesis thinks of."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from dramatiq import Message
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from shared.broker.asking import Due, in_script
from shared.broker.deliveries import Delivery
from shared.broker.dispatch import Dispatch
from shared.broker.record import pack_id, pack_record, unpack_id
from shared.broker.states import STATES, Outcome, Progress, Reason, State, TaskError
from shared.clock import MILLISECOND, from_ms, to_ms
from shared.errors import TaskConflict, TaskIdTaken, TaskNotFound
from tests.conftest import ROUNDS
from tests.support.engine_model import PRIORITIES, QUEUES, Model, Task
from tests.support.engines import EngineOnRedis, a_message, dead_letters, dead_message
from tests.support.redis_server import PrivateRedis

ERROR = TaskError("ValueError", "no")
ENDS = {
    "success": Outcome(State.SUCCESS, result={"a": 1}),
    "nothing": Outcome(State.SUCCESS),
    "ignored": Outcome(State.IGNORED),
    "terminated": Outcome(State.REVOKED, Reason.TERMINATED),
    "dead": Outcome(State.FAILURE, error=ERROR),
}

# At once, or this many seconds before or after the test began.
TIMES = st.none() | st.integers(-100, -1) | st.integers(3_600, 3_660)
PICKS = st.integers(0, 10_000)
SOME = st.lists(PICKS, min_size=1, max_size=5)
A_QUEUE = st.sampled_from(QUEUES)
A_WORKER = st.integers(0, 1)

Held = tuple[Dispatch, Delivery, Task]


HOLDS_SOME = precondition(lambda machine: machine.deliveries)
KNOWS_SOME = precondition(lambda machine: machine.model.tasks)
HAS_DEAD = precondition(lambda machine: any(machine.model.of(queue, "dead") for queue in QUEUES))


class EngineMachine(RuleBasedStateMachine):
    """Senders and two workers. Every delivery that there ever was goes on being used, its token stale or not."""

    server: PrivateRedis

    def __init__(self) -> None:
        super().__init__()
        self.server.client().flushall()
        self.redis = EngineOnRedis(self.server)
        self.engine = self.redis.engine
        self.workers = [self.redis.worker, self.redis.another_worker()]
        self.model = Model()
        self.opened_at = to_ms(self.redis.now())
        self.deliveries: list[tuple[Dispatch, Delivery]] = []
        self.sent: list[tuple[str, str, int | None, tuple[bytes, str, bytes]]] = []
        self.ends: dict[str, bytes] = {}
        self.lapses = 0

    # Senders

    @rule(queue=A_QUEUE, priority=st.sampled_from(PRIORITIES), time=TIMES)
    def enqueue(self, queue: str, priority: int, time: int | None) -> None:
        self._enqueue([a_message(queue=queue, priority=priority)], time)

    @rule(queue=A_QUEUE, priorities=st.lists(st.sampled_from([0, 3, 5, 9]), min_size=2, max_size=6), time=TIMES)
    def enqueue_several(self, queue: str, priorities: list[int], time: int | None) -> None:
        self._enqueue([a_message(queue=queue, priority=priority) for priority in priorities], time)

    @rule(queue=A_QUEUE)
    def enqueue_one_that_has_expired(self, queue: str) -> None:
        self._enqueue([a_message(queue=queue, expires=1)], None)

    @KNOWS_SOME
    @rule(pick=PICKS, queue=A_QUEUE, time=TIMES)
    def enqueue_under_a_taken_id(self, pick: int, queue: str, time: int | None) -> None:
        task = self._picked(pick)
        message = a_message("another", queue=queue, task_id=task.id)
        assert self.engine.enqueue([(message, self._time(time)[0])]) == [task.state]

    @rule(queue=A_QUEUE, time=TIMES, pick=PICKS)
    def enqueue_and_repeat(self, queue: str, time: int | None, pick: int) -> None:
        """As a client does whose connection broke before the answer came, however late."""
        message, nonce = a_message(queue=queue), b"%04d" % len(self.sent)
        due, at = self._time(time)
        call = (pack_id(message.message_id), in_script(due), pack_record(message, nonce))
        self.sent.append((message.message_id, queue, at, call))
        for task_id, its_queue, its_at, its_call in (self.sent[-1], self.sent[pick % len(self.sent)]):
            if task_id not in self.model.tasks:  # or forgotten: nobody can know then that it is a repeat
                self.model.enqueue(Task(task_id, its_queue, 5), its_at)
            assert self.redis.asking.one("enqueue", *its_call) == [b""]

    # Workers

    @rule(number=A_WORKER, queue=A_QUEUE, limit=st.sampled_from([1, 1, 2, 3, 5, 8, 20]))
    def fetch(self, number: int, queue: str, limit: int) -> None:
        self._fetch(number, queue, limit)

    @rule(number=A_WORKER, queue=A_QUEUE, limit=st.integers(1, 4), is_killable=st.booleans())
    def fetch_and_begin(self, number: int, queue: str, limit: int, is_killable: bool) -> None:
        """What workers do most."""
        for held in self._fetch(number, queue, limit):
            self._begin(held, is_killable)

    @HOLDS_SOME
    @rule(pick=PICKS, is_killable=st.booleans())
    def begin(self, pick: int, is_killable: bool) -> None:
        self._begin(self._delivered(pick), is_killable)

    @rule(queue=A_QUEUE, is_killable=st.booleans(), interrupts=st.booleans())
    def cancel_what_has_just_begun(self, queue: str, is_killable: bool, interrupts: bool) -> None:
        for held in self._fetch(0, queue, 1):
            self._begin(held, is_killable)
            expected = self.model.cancel(held[2], interrupts)
            assert self.engine.cancel([held[2].id], interrupts=interrupts) == [expected]

    @HOLDS_SOME
    @rule(pick=PICKS, progress=PICKS, is_told_at_once=st.booleans())
    def tell_progress(self, pick: int, progress: int, is_told_at_once: bool) -> None:
        """Or with the end of the run, if that comes first."""
        worker, delivery, task = self._delivered(pick)
        delivery.progress = msgspec.msgpack.encode(Progress(progress, 100.5, "half way"))
        if is_told_at_once:
            worker.progress(delivery, delivery.progress)
            self.model.tell_progress(task, delivery.token, progress)

    @HOLDS_SOME
    @rule(pick=PICKS, end=st.sampled_from(list(ENDS)))
    def finish(self, pick: int, end: str) -> None:
        self._finish(self._delivered(pick), end)

    @HOLDS_SOME
    @rule(pick=PICKS, time=TIMES, state=st.sampled_from([State.RETRY, State.RETRY, State.PENDING]))
    def retry(self, pick: int, time: int | None, state: State) -> None:
        worker, delivery, task = self._delivered(pick)
        due, at = self._time(time)
        retries = task.retries + 1
        message = delivery.message.copy(options=delivery.message.options | {"retries": retries})
        expected = self.model.retry(task, delivery.token, at, state, retries)
        outcome = Outcome(state, error=ERROR if state is State.RETRY else None)
        assert worker.retry(delivery, message, due, state, outcome) == expected

    @HOLDS_SOME
    @rule(picks=SOME)
    def renew(self, picks: list[int]) -> None:
        self._with_several(picks, Dispatch.renew, self.model.renew)

    @HOLDS_SOME
    @rule(picks=SOME)
    def give_back(self, picks: list[int]) -> None:
        self._with_several(picks, Dispatch.give_back, self.model.give_back)

    @HOLDS_SOME
    @rule(picks=SOME)
    def leases_end(self, picks: list[int]) -> None:
        for pick in picks:
            _, delivery, task = self._delivered(pick)
            if task.token == delivery.token:
                self._end_lease(task)

    @rule(number=A_WORKER)
    def reap(self, number: int) -> None:
        assert self.workers[number].reap(QUEUES) == self.model.reap()

    @rule(queue=A_QUEUE, times=st.integers(1, 6))
    def workers_die_at_the_next(self, queue: str, times: int) -> None:
        """One after another, each having begun it; from the third on it is fetched alone."""
        for _ in range(times):
            for held in self._fetch(0, queue, 1):
                self._begin(held)
                if held[2].token is not None:
                    self._end_lease(held[2])
            self.reap(0)

    @rule(number=A_WORKER, wakes_another=st.booleans())
    def promote(self, number: int, wakes_another: bool) -> None:
        held = [task for queue in QUEUES for task in self.model.of(queue, "leased")]
        promoted = self.workers[number].promote(QUEUES, wakes_another=wakes_another)
        assert promoted.waiting == self.model.promote(self.opened_at, wakes_another)
        assert promoted.is_lapsed == any(task.lapsed_at is not None for task in held)
        first = min((task.at for queue in QUEUES for task in self.model.of(queue, "due")), default=None)
        if first is None:
            assert promoted.next_in is None
        else:
            assert promoted.next_in is not None
            since = (first - self.opened_at) * MILLISECOND - promoted.next_in
            assert timedelta() <= since < timedelta(minutes=10)

    @rule(picks=SOME)
    def times_come(self, picks: list[int]) -> None:
        """Of tasks that are due far later; nobody has promoted them yet."""
        for pick in picks:
            if waiting := [task for queue in QUEUES for task in self.model.of(queue, "due")]:
                task = waiting[pick % len(waiting)]
                task.at = self.opened_at - pick
                self.redis.client.zadd(self.redis.keys.key("due_set", task.queue), {pack_id(task.id): task.at}, xx=True)

    # Whoever looks after it

    @KNOWS_SOME
    @rule(picks=SOME, interrupts=st.booleans(), knows_all=st.booleans())
    def cancel(self, picks: list[int], interrupts: bool, knows_all: bool) -> None:
        ids = [self._picked(pick).id for pick in picks[:3]] + ([] if knows_all else ["nobody"])
        expected = [self.model.cancel(self.model.tasks.get(task_id), interrupts) for task_id in ids]
        assert self.engine.cancel(ids, interrupts=interrupts) == expected

    @KNOWS_SOME
    @rule(pick=PICKS)
    def forget(self, pick: int) -> None:
        """An id that is forgotten may be used again."""
        task = self._picked(pick // 2)
        if not task.is_over:
            with pytest.raises(TaskConflict, match=task.state):
                self.engine.forget(task.id)
            return
        self.engine.forget(task.id)
        self.model.forget(task)
        del self.ends[task.id]
        with pytest.raises(TaskNotFound):
            self.engine.forget(task.id)
        with pytest.raises(TaskNotFound):
            self.engine.look_up(task.id)
        if pick % 2:
            self._enqueue([a_message(queue=task.queue, task_id=task.id)], None)

    @KNOWS_SOME
    @rule(pick=PICKS, time=TIMES)
    def move(self, pick: int, time: int | None) -> None:
        task_id = self._picked(pick).id if pick % 10 else "nobody"
        due, at = self._time(time)
        expected = self.model.move(self.model.tasks.get(task_id), at)
        assert self.engine.move(task_id, due) == expected

    @HAS_DEAD
    @rule(pick=PICKS)
    def revive(self, pick: int) -> None:
        task = self._dead(pick)
        message = a_message(queue=task.queue)
        self.engine.revive(task.queue, task.id, message)
        task.where = "ended"
        self._note_enqueued(message, None)

    @HAS_DEAD
    @rule(pick=PICKS, other=PICKS)
    def revive_under_a_taken_id(self, pick: int, other: int) -> None:
        task, taken = self._dead(pick), self._picked(other)
        with pytest.raises(TaskIdTaken, match=taken.state):
            self.engine.revive(task.queue, task.id, a_message(queue=task.queue, task_id=taken.id))

    @HAS_DEAD
    @rule(pick=PICKS)
    def discard(self, pick: int) -> None:
        task = self._dead(pick)
        self.engine.discard(task.queue, task.id)
        task.where = "ended"

    @KNOWS_SOME
    @rule(pick=PICKS)
    def look_for_a_dead_letter_in_vain(self, pick: int) -> None:
        task = self._picked(pick)
        if task.where != "dead":
            with pytest.raises(TaskNotFound):
                self.engine.discard(task.queue, task.id)
            with pytest.raises(TaskNotFound):
                self.engine.revive(task.queue, task.id, a_message(queue=task.queue))

    @KNOWS_SOME
    @rule(pick=PICKS)
    def look_up(self, pick: int) -> None:
        self._check_look_up(self._picked(pick))

    @rule()
    def count(self) -> None:
        stats = self.engine.stats(QUEUES)
        for queue in QUEUES:
            due = self.model.of(queue, "due")
            overdue = [task for task in due if task.at <= self.opened_at]
            counted = stats[queue]
            assert counted.ready == [len(self.model.ready(queue, priority)) for priority in PRIORITIES]
            assert (counted.due, counted.overdue) == (len(due) - len(overdue), len(overdue))
            assert counted.alone == len(self.model.of(queue, "alone"))
            assert counted.leased == len(self.model.of(queue, "leased"))
            assert counted.dead == len(self.model.of(queue, "dead"))
            assert (counted.oldest_ready is None) == (not any(counted.ready) and not counted.alone)
            assert (counted.next_due is None) == (not due)

    @HAS_DEAD
    @rule()
    def list_dead_letters(self) -> None:
        for queue in QUEUES:
            states = dead_letters(self.engine, queue)
            assert {state.id for state in states} == {task.id for task in self.model.of(queue, "dead")}
            assert all(dead_message(self.engine, state.id, queue) for state in states)
            ended_at = [state.ended_at for state in states if state.ended_at]
            assert ended_at == sorted(ended_at, reverse=True)

    @rule(queue=A_QUEUE)
    def signals_are_taken(self, queue: str) -> None:
        self.redis.client.delete(self.redis.keys.key("signal", queue), self.redis.keys.key("sooner", queue))
        self.model.signals.discard(queue)
        self.model.sooner.discard(queue)

    # What holds after each step

    @invariant()
    def every_task_is_in_one_place_and_in_its_order(self) -> None:
        sets = [(queue, where, key) for queue in QUEUES for where, key in self._sets(queue)]
        pipeline = self.redis.client.pipeline(transaction=False)
        for _, _, key in sets:
            pipeline.zrange(key, 0, -1)
        for (queue, where, _), members in zip(sets, pipeline.execute(), strict=True):
            held, expected = [unpack_id(member) for member in members], self._in_set(queue, where)
            if where in {"leased", "dead"}:  # ordered by instants that only Redis knows
                held, expected = sorted(held), sorted(expected)
            assert held == expected, where

    @invariant()
    def messages_are_kept_until_their_task_has_ended(self) -> None:
        kept: Any = self.redis.client.hkeys(self.redis.keys.key("messages"))
        assert {unpack_id(packed) for packed in kept} == {
            task.id for task in self.model.tasks.values() if task.where != "ended"
        }

    @invariant()
    def what_is_final_stays_as_it_is(self) -> None:
        over = [task for task in self.model.tasks.values() if task.is_over]
        keys = [self.redis.keys.key("ended", pack_id(task.id)) for task in over]
        ends: Any = self.redis.client.mget(keys) if keys else []
        for task, end in zip(over, ends, strict=True):
            assert STATES[end[:1]] is task.state
            assert self.ends.setdefault(task.id, end) == end

    @invariant()
    def what_ended_last_is_listed_by_its_end(self) -> None:
        """But what was cancelled before there was anything to tell."""
        for queue in QUEUES:
            recent: Any = self.redis.client.zrange(self.redis.keys.key("recent", queue), 0, -1, withscores=True)
            assert {unpack_id(packed_id) for packed_id, _ in recent} == self.model.recent[queue]
            for packed_id, at in recent:
                end: Any = self.redis.client.get(self.redis.keys.key("ended", packed_id))
                assert int.from_bytes(end[2:8], "big") == at

    @invariant()
    def a_task_that_is_held_has_one_token(self) -> None:
        known = [task for task in self.model.tasks.values() if task.is_known and not task.is_over]
        pipeline = self.redis.client.pipeline(transaction=False)
        for task in known:
            pipeline.hmget(self.redis.keys.key("live", pack_id(task.id)), "token", "run")
        for task, (token, run) in zip(known, pipeline.execute(), strict=True):
            assert token == (task.token.encode() if task.token else None)
            assert (token is not None and run == token) == task.begun

    @invariant()
    def no_other_keys_exist(self) -> None:
        """Of a task that has never been fetched nothing is stored but its message and where it waits."""
        key, tasks = self.redis.keys.key, self.model.tasks.values()
        expected = {name for queue in QUEUES for where, name in self._sets(queue) if self._in_set(queue, where)}
        expected |= {key("ended", pack_id(task.id)) for task in tasks if task.is_over}
        expected |= {key("live", pack_id(task.id)) for task in tasks if task.is_known and not task.is_over}
        expected |= {key("messages") for task in tasks if task.where != "ended"}
        expected |= {key("turns", queue) for queue in self.model.asked}
        expected |= {key("recent", queue) for queue, ids in self.model.recent.items() if ids}
        signals = {key("signal", queue) for queue in self.model.signals}
        signals |= {key("sooner", queue) for queue in self.model.sooner}
        assert set(self.redis.client.keys()) == expected | signals
        assert all(self.redis.client.llen(name) == 1 for name in signals)

    def teardown(self) -> None:
        """Once all has ended nothing is left but how it ended, for a while, and what a queue has for good."""
        for task in self.model.tasks.values():
            assert self.engine.cancel([task.id]) == [self.model.cancel(task, False)]
        for worker, delivery in self.deliveries:
            self._finish((worker, delivery, self._task(delivery)), "success")
        while any(self.model.of(queue, "dead") for queue in QUEUES):
            self.discard(0)
        self.no_other_keys_exist()
        ended, client = self.redis.keys.key("ended", b""), self.redis.client
        names: Any = client.keys()
        for name in names:
            assert client.pttl(name) > 0 if name.startswith(ended) else client.pttl(name) == -1
        for task in self.model.tasks.values():
            self._check_look_up(task)
        client.close()

    def _enqueue(self, messages: Sequence[Message[Any]], time: int | None) -> None:
        due, at = self._time(time)
        assert self.engine.enqueue([(message, due) for message in messages]) == [None] * len(messages)
        for message in messages:
            self._note_enqueued(message, at)

    def _note_enqueued(self, message: Message[Any], at: int | None) -> None:
        options = message.options
        task = Task(message.message_id, message.queue_name, options.get("priority", 5), "expires" in options)
        self.model.enqueue(task, at)

    def _time(self, time: int | None) -> tuple[Due, int | None]:
        """As it is sent, and as the model has it: None for what is due."""
        if time is None:
            return None, None
        at = self.opened_at + 1000 * time
        return from_ms(at), at if time > 0 else None

    def _fetch(self, number: int, queue: str, limit: int) -> list[Held]:
        worker = self.workers[number]
        fetched = worker.fetch(queue, limit)
        token = fetched.deliveries[0].token if fetched.deliveries else ""
        expected, is_alone, is_more = self.model.fetch(queue, limit, token)
        assert [delivery.message.message_id for delivery in fetched.deliveries] == [task.id for task in expected]
        assert (fetched.is_alone, fetched.is_more) == (is_alone, is_more)
        self.deliveries += [(worker, delivery) for delivery in fetched.deliveries]
        return [(worker, delivery, task) for delivery, task in zip(fetched.deliveries, expected, strict=True)]

    def _begin(self, held: Held, is_killable: bool = False) -> None:
        worker, delivery, task = held
        expected = self.model.begin(task, delivery.token, is_killable)
        assert worker.begin([delivery], is_killable=is_killable) == [expected]
        if expected == "run":
            assert delivery.number == task.deliveries

    def _finish(self, held: Held, end: str) -> None:
        worker, delivery, task = held
        if delivery.progress:
            told = msgspec.msgpack.decode(delivery.progress, type=Progress)
            self.model.tell_progress(task, delivery.token, int(told.current))
        expected = self.model.finish(task, delivery.token, ENDS[end], end == "dead")
        assert worker.finish([delivery], ENDS[end], is_dead=end == "dead") == [expected]

    def _end_lease(self, task: Task) -> None:
        self.lapses += 1
        task.lapsed_at = self.opened_at - 100_000 + self.lapses
        self.redis.client.zadd(self.redis.keys.key("leases", task.queue), {pack_id(task.id): task.lapsed_at}, xx=True)

    def _with_several(
        self,
        picks: Sequence[int],
        call: Callable[[Dispatch, list[Delivery]], list[str]],
        expect: Callable[[Task, str], str],
    ) -> None:
        held = [self._delivered(pick) for pick in picks]
        expected = [expect(task, delivery.token) for _, delivery, task in held]
        assert call(held[0][0], [delivery for _, delivery, _ in held]) == expected

    def _delivered(self, pick: int) -> Held:
        """Mostly a delivery that still holds its task, now and then one that does not."""
        all_held = [(worker, delivery, self._task(delivery)) for worker, delivery in self.deliveries]
        held = [each for each in all_held if each[2].token == each[1].token]
        some = held if held and pick % 4 else all_held
        return some[pick // 4 % len(some)]

    def _task(self, delivery: Delivery) -> Task:
        task_id = delivery.message.message_id
        return self.model.tasks.get(task_id) or self.model.forgotten[task_id]

    def _picked(self, pick: int) -> Task:
        """Mostly one that has not ended."""
        tasks = list(self.model.tasks.values())
        some = [task for task in tasks if not task.is_over] if pick % 4 else tasks
        return (some or tasks)[pick // 4 % len(some or tasks)]

    def _dead(self, pick: int) -> Task:
        dead = [task for queue in QUEUES for task in self.model.of(queue, "dead")]
        return dead[pick % len(dead)]

    def _check_look_up(self, task: Task) -> None:
        told = self.engine.look_up(task.id)
        assert (told.id, told.state, told.reason, told.is_over) == (task.id, task.state, task.reason, task.is_over)
        if not task.is_over:
            assert (told.retries, told.deliveries, told.priority) == (task.retries, task.deliveries, task.priority)
            assert told.due_at == (from_ms(task.at) if task.where == "due" else None)
            assert told.progress == _progress(task)
        elif task.is_told:
            assert told.progress == _progress(task)
            assert (told.deliveries, told.task, told.queue) == (task.deliveries, "body", task.queue)

    def _sets(self, queue: str) -> Iterator[tuple[str, bytes]]:
        """The sets that hold its tasks: a priority or another place, and the key."""
        for priority in PRIORITIES:
            yield str(priority), self.redis.keys.key("ready", queue, str(priority))
        for where, name in (("due", "due_set"), ("alone", "alone"), ("leased", "leases"), ("dead", "dead")):
            yield where, self.redis.keys.key(name, queue)

    def _in_set(self, queue: str, where: str) -> list[str]:
        tasks = self.model.ready(queue, int(where)) if where.isdigit() else self.model.of(queue, where)
        return [task.id for task in tasks]


def _progress(task: Task) -> Progress | None:
    return None if task.progress is None else Progress(task.progress, 100.5, "half way")


@pytest.mark.rounds
def test_the_scripts_do_what_the_model_does(redis_server: PrivateRedis) -> None:
    class OnThisRedis(EngineMachine):
        server = redis_server

    run_state_machine_as_test(
        OnThisRedis,
        settings=settings(
            max_examples=3 * ROUNDS,
            stateful_step_count=80,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
