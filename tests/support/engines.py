"""The engine on a real Redis: the senders' side, workers, and what a test may do behind their backs."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from dramatiq import Message
from dramatiq.message import generate_unique_id

from shared.broker.asking import Asking, Due
from shared.broker.connection import patient_client
from shared.broker.deliveries import Delivery
from shared.broker.dispatch import Dispatch
from shared.broker.engine import Engine
from shared.broker.record import pack_id, unpack_id
from shared.broker.scripts import through_pool
from shared.broker.states import TaskState
from shared.clock import from_ms, to_ms
from shared.redis_keys import RedisKeys
from shared.tasks.listing import TaskLists, TaskQuery
from tests.support.redis_server import PrivateRedis

QUEUE = "exams"
KEEP = timedelta(hours=24)
FAR = timedelta(days=1)


def a_message(*args: Any, queue: str = QUEUE, task_id: str | None = None, **options: Any) -> Message[Any]:
    """Of the actor `body`; `options` are the message's."""
    return Message(
        queue_name=queue,
        actor_name="body",
        args=args,
        kwargs={},
        options=options,
        message_id=task_id or generate_unique_id(),
    )


def dead_letters(engine: Engine, queue: str = QUEUE) -> list[TaskState]:
    """The latest first."""
    return TaskLists(engine).dead_letters([queue], TaskQuery(limit=1_000)).states


def dead_message(engine: Engine, task_id: str, queue: str = QUEUE) -> Message[Any] | None:
    """Of a dead letter that there is; None where it cannot be read."""
    letter = engine.dead_letter([queue], task_id)
    assert letter is not None
    return letter.message


class EngineOnRedis:
    """Both sides of the engine, in a namespace of a Redis."""

    def __init__(self, server: PrivateRedis, namespace: str = "test") -> None:
        self.keys = RedisKeys(namespace)
        self.client = patient_client(server.url)
        self.asking = Asking(through_pool(self.client), self.keys)
        self.engine = Engine(self.asking, KEEP)
        self.worker = self.another_worker()

    def another_worker(self) -> Dispatch:
        return Dispatch(self.asking, KEEP)

    def now(self) -> datetime:
        """Redis's own clock."""
        seconds, microseconds = self.client.time()
        return from_ms(seconds * 1000 + microseconds // 1000)

    def send(self, *args: Any, due: Due = None, **how: Any) -> str:
        """The id of a new task; `how` as for `a_message`."""
        message = a_message(*args, **how)
        assert self.engine.enqueue([(message, due)]) == [None]
        return message.message_id

    def fetch(self, limit: int = 1, queue: str = QUEUE) -> list[Delivery]:
        return self.worker.fetch(queue, limit).deliveries

    def hold(self, *args: Any, **how: Any) -> Delivery:
        """A new task, fetched and not begun. Nothing else may be ready."""
        task_id = self.send(*args, **how)
        (delivery,) = self.fetch(queue=how.get("queue", QUEUE))
        assert delivery.message.message_id == task_id
        return delivery

    def run(self, *args: Any, **how: Any) -> Delivery:
        """A new task whose run has begun. Nothing else may be ready."""
        delivery = self.hold(*args, **how)
        assert self.worker.begin([delivery]) == ["run"]
        return delivery

    def end_leases(self, task_ids: Sequence[str], queue: str = QUEUE) -> None:
        """As if their time were over."""
        ended = to_ms(self.now()) - 1
        leases = self.keys.key("leases", queue)
        self.client.zadd(leases, dict.fromkeys(map(pack_id, task_ids), ended), xx=True)

    def come_due(self, task_ids: Sequence[str], queue: str = QUEUE) -> None:
        """As if they had been due a moment ago, each a ms after the one before; nobody has promoted them yet."""
        first = to_ms(self.now()) - len(task_ids)
        scores = {pack_id(task_id): first + number for number, task_id in enumerate(task_ids)}
        self.client.zadd(self.keys.key("due_set", queue), scores, xx=True)

    def ready(self, priority: int = 5, queue: str = QUEUE) -> list[str]:
        """Ids in the order in which they are fetched."""
        members: Any = self.client.zrange(self.keys.key("ready", queue, str(priority)), 0, -1)
        return [unpack_id(member) for member in members]
