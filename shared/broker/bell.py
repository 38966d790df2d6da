"""Wakes this process when something is ready, or due sooner than it thought."""

from collections.abc import Callable, Sequence

import redis

from shared.broker.loops import LISTEN_S, Loop
from shared.broker.room import Room
from shared.redis_keys import RedisKeys


class Bell(Loop):
    """Waits in Redis for a signal while the process has a place and nothing to fill it with. Each signal reaches one
    process; one that can no longer use it passes it on.
    """

    def __init__(
        self,
        client: "redis.Redis",
        keys: RedisKeys,
        queues: Callable[[], Sequence[str]],
        room: Room,
        look_again: Callable[[], None],
    ) -> None:
        super().__init__()
        self._client = client
        self._keys = keys
        self._queues = queues
        self._room = room
        self._look_again = look_again

    def turn(self) -> None:
        if not self._room.wait_for_idle(LISTEN_S):
            return
        queue_of = {self._keys.key("signal", queue): queue for queue in self._queues()}
        sooner = [self._keys.key("sooner", queue) for queue in queue_of.values()]
        answer = self._client.blpop([*queue_of, *sooner], timeout=LISTEN_S)
        if answer is None:
            return
        key, _ = answer
        if key not in queue_of:
            self._look_again()
        elif self._room.has_place:
            self._room.signal([queue_of[key]])
        else:
            self._client.rpush(key, "")
