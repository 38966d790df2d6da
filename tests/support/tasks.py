"""The tasks that a Redis holds, read past the engine."""

from datetime import datetime
from typing import Any

import redis
from dramatiq import Message

from shared.broker.record import unpack_record
from shared.clock import from_ms
from shared.redis_keys import RedisKeys


class TasksInRedis:
    """As they lie in the keys of one namespace."""

    def __init__(self, client: "redis.Redis", namespace: str = "invigil") -> None:
        self._client: Any = client  # its types allow for answers that these commands never give
        self._keys = RedisKeys(namespace)

    def ready(self, queue: str) -> list[Message[Any]]:
        """Those that a worker may fetch, in the order of their priorities and places."""
        by_priority = [self._keys.key("ready", queue, str(priority)) for priority in range(9, -1, -1)]
        return [self._message(packed_id) for name in by_priority for packed_id in self._client.zrange(name, 0, -1)]

    def due(self, queue: str) -> list[tuple[Message[Any], datetime]]:
        """Those that wait for their time, with that time."""
        found = self._client.zrange(self._keys.key("due_set", queue), 0, -1, withscores=True)
        return [(self._message(packed_id), from_ms(int(at))) for packed_id, at in found]

    def _message(self, packed_id: bytes) -> Message[Any]:
        return unpack_record(packed_id, self._client.hget(self._keys.key("messages"), packed_id)).message
