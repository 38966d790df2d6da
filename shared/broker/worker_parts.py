"""What a worker consists of beside Dramatiq's threads."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import redis
from dramatiq import Message

from shared.broker.asking import Asking
from shared.broker.bell import Bell
from shared.broker.control import Control
from shared.broker.deliveries import Held
from shared.broker.dispatch import Dispatch
from shared.broker.interrupts import Interrupts, TimeLimits
from shared.broker.loops import Loop
from shared.broker.promoter import Promoter
from shared.broker.renewer import Renewer
from shared.broker.room import Room
from shared.broker.round_trips import SharedRoundTrips
from shared.broker.runs import Runs
from shared.redis_keys import RedisKeys

KeepOf = Callable[[Message[Any]], timedelta | None]


class WorkerParts:
    """Made when a worker boots, not before: a process that forks workers must share no connection or token with them.

    `keep` and `keep_of`: how long it is known how a task ended, in general and for this one.
    """

    def __init__(
        self,
        client: "redis.Redis",
        keys: RedisKeys,
        keep: timedelta,
        keep_of: KeepOf,
        interrupts: Interrupts,
        queues: Callable[[], Sequence[str]],
    ) -> None:
        self.round_trips = SharedRoundTrips(client)
        self.dispatch = Dispatch(Asking(self.round_trips, keys), keep)
        self.held = Held()
        self.room = Room()
        self.runs = Runs(self.dispatch, self.held, self.room, keep_of)
        promoter = Promoter(self.dispatch, queues, self.room)
        self.loops: list[Loop] = [
            promoter,
            Bell(client, keys, queues, self.room, promoter.look_again),
            Renewer(self.dispatch, self.held, interrupts.interrupt),
            Control(client, keys, self.dispatch.process, interrupts.interrupt),
            TimeLimits(interrupts),
        ]
