"""Hears of the ends of tasks: one connection and one thread a process, however many wait."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

import redis

from shared.broker.loops import LISTEN_S, Loop
from shared.broker.record import pack_id
from shared.broker.states import TaskState, ended
from shared.redis_keys import RedisKeys

Hear = Callable[[TaskState | None], None]
"""Told how a task has ended; or None, when it is time to look: it may have ended before anybody listened."""


class Endings:
    """Who waits has to be heard of in Redis first, and looks then: an end may come before that or after."""

    def __init__(self, client: "redis.Redis", keys: RedisKeys) -> None:
        self._client = client
        self._keys = keys
        self._lock = threading.Lock()
        self._listener: _Listener | None = None

    @contextlib.contextmanager
    def heard_by(self, task_id: str, hear: Hear) -> Iterator[None]:
        """Calls `hear` from another thread: soon with None, again with None after Redis was away, and with the end."""
        listener = self._started()
        listener.add(task_id, hear)
        try:
            yield
        finally:
            listener.remove(task_id, hear)

    def close(self) -> None:
        """Until somebody waits again."""
        with self._lock:
            if self._listener is not None:
                self._listener.stop()
                self._listener.join(2 * LISTEN_S)
                self._listener = None

    def _started(self) -> "_Listener":
        with self._lock:
            if self._listener is None or not self._listener.is_alive():  # this process may have been forked meanwhile
                self._listener = _Listener(self._client, self._keys)
                self._listener.start()
            return self._listener


class _Listener(Loop):
    """Its connection is its own thread's alone; others tell it over a channel that there is something to do."""

    def __init__(self, client: "redis.Redis", keys: RedisKeys) -> None:
        super().__init__()
        self._client = client
        self._keys = keys
        self._own_channel = keys.key("ending", b"p" + os.urandom(16))
        self._pubsub = client.pubsub()  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()
        self._hearers: dict[bytes, tuple[str, list[Hear]]] = {}
        self._changed: set[bytes] = set()
        self._subscribed: set[bytes] = set()

    def add(self, task_id: str, hear: Hear) -> None:
        channel = self._keys.key("ending", pack_id(task_id))
        with self._lock:
            _, hearers = self._hearers.setdefault(channel, (task_id, []))
            hearers.append(hear)
            is_heard = channel in self._subscribed
        if is_heard:
            hear(None)
        else:
            self._change(channel)

    def remove(self, task_id: str, hear: Hear) -> None:
        channel = self._keys.key("ending", pack_id(task_id))
        with self._lock:
            _, hearers = self._hearers[channel]
            hearers.remove(hear)
            if hearers:
                return
            del self._hearers[channel]
        self._change(channel)

    def turn(self) -> None:
        if not self._pubsub.subscribed:
            with self._lock:
                self._subscribed.clear()
                self._changed = set(self._hearers)
            self._pubsub.subscribe(self._own_channel)
        with self._lock:
            changed, self._changed = self._changed, set()
            wanted = [channel for channel in changed if channel in self._hearers]
            unwanted = [channel for channel in changed & self._subscribed if channel not in self._hearers]
            self._subscribed.difference_update(unwanted)
        if wanted:
            self._pubsub.subscribe(*wanted)
        if unwanted:
            self._pubsub.unsubscribe(*unwanted)
        heard = self._pubsub.get_message(timeout=LISTEN_S)
        if heard is not None and heard["channel"] != self._own_channel:
            self._tell(heard["type"], heard["channel"], heard["data"])

    def broke_off(self) -> None:
        self._pubsub.reset()

    def run(self) -> None:
        super().run()
        self._pubsub.close()

    def _change(self, channel: bytes) -> None:
        with self._lock:
            is_told = bool(self._changed)
            self._changed.add(channel)
        if not is_told:
            with contextlib.suppress(redis.RedisError):  # then it finds out when it looks next
                self._client.publish(self._own_channel, b"")

    def _tell(self, kind: str, channel: bytes, data: bytes) -> None:
        with self._lock:
            if kind == "subscribe":
                self._subscribed.add(channel)
                if channel not in self._hearers:  # nobody waits any more: the next turn lets go of it
                    self._changed.add(channel)
            task_id, hearers = self._hearers.get(channel, ("", []))
            told = list(hearers)
        if kind in ("message", "subscribe"):
            state = ended(task_id, data) if told and kind == "message" else None
            for hear in told:
                hear(state)
