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
from shared.broker.large_values import LargeValues, drop_all
from shared.broker.loops import Loop
from shared.broker.progress import ProgressReports
from shared.broker.promoter import Promoter
from shared.broker.registry import Announcer
from shared.broker.renewer import Renewer
from shared.broker.room import Room
from shared.broker.round_trips import SharedRoundTrips
from shared.broker.runs import Runs
from shared.redis_keys import RedisKeys

KeepOf = Callable[[Message[Any]], timedelta | None]
IsKillable = Callable[[Message[Any]], bool]


class WorkerParts:
    """Made when a worker boots, not before: a process that forks workers must share no connection or token with them.

    `keep` and `keep_of`: how long it is known how a task ended, in general and for this one. `is_killable`: whether a
    run of it can be killed. `large`: where values go that are too large for Redis.
    """

    def __init__(
        self,
        client: "redis.Redis",
        keys: RedisKeys,
        keep: timedelta,
        keep_of: KeepOf,
        is_killable: IsKillable,
        large: LargeValues | None,
        interrupts: Interrupts,
        queues: Callable[[], Sequence[str]],
    ) -> None:
        self.round_trips = SharedRoundTrips(client)
        self.dispatch = Dispatch(Asking(self.round_trips, keys), keep)
        self.held = Held()
        self.room = Room()
        self.runs = Runs(self.dispatch, self.held, self.room, keep_of, is_killable, large)
        self._interrupts = interrupts
        promoter = Promoter(self.dispatch, queues, self.room, lambda task_id: drop_all(task_id, large))
        self.loops: list[Loop] = [
            promoter,
            Bell(client, keys, queues, self.room, promoter.look_again),
            Renewer(self.dispatch, self.held, self._cancelled, interrupts.kill),
            Control(client, keys, self.dispatch.process, self._cancelled),
            TimeLimits(interrupts),
            ProgressReports(self.dispatch, self.held),
            Announcer(self.dispatch, queues, lambda: self.room.places, self.held),
        ]

    def _cancelled(self, task_id: str, is_to_stop: bool) -> None:
        delivery = self.held.get(task_id)
        if delivery is not None:
            delivery.is_cancelled = True
        if is_to_stop:
            self._interrupts.interrupt(task_id)
