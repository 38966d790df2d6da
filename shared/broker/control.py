"""Hears which running tasks have been cancelled."""

from collections.abc import Callable

import redis

from shared.broker.loops import LISTEN_S, Loop
from shared.broker.record import unpack_id
from shared.redis_keys import RedisKeys


class Control(Loop):
    """Listens on this process's channel. What is said while the connection is broken, the next renewal says again."""

    def __init__(
        self, client: "redis.Redis", keys: RedisKeys, process: str, cancelled: Callable[[str, bool], None]
    ) -> None:
        super().__init__()
        self._channel = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._channel_key = keys.key("control", process)
        self._cancelled = cancelled

    def turn(self) -> None:
        if not self._channel.subscribed:
            self._channel.subscribe(self._channel_key)
        heard = self._channel.get_message(timeout=LISTEN_S)
        if heard is not None:
            self._cancelled(unpack_id(heard["data"][1:]), heard["data"][:1] == b"i")
