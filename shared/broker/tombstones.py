"""Tombstones: a key in Redis that says a task need not run any more.

Read and never consumed, so a message delivered twice is skipped twice; it outlives the task's delay. Skipping only
saves work: whether an exam may still become absent is decided by its events.
"""

from collections.abc import Sequence
from datetime import timedelta

import redis
from dramatiq import Broker, MessageProxy, Middleware
from dramatiq.middleware import SkipMessage

from shared.broker.breaker import Breaker
from shared.clock import MILLISECOND
from shared.errors import BrokerUnavailable
from shared.redis_keys import RedisKeys

KEEP_LONGER = timedelta(hours=1)  # a message may be late, by a worker's restart; later ones only do needless work


class Tombstones:
    """Set by whoever cancels, read by workers."""

    def __init__(self, client: "redis.Redis", breaker: Breaker, keys: RedisKeys) -> None:
        self._client = client
        self._breaker = breaker
        self._keys = keys

    def set(self, tasks: Sequence[tuple[str, timedelta]]) -> None:
        """One for each task id, kept for as long as the task could still be due and an hour more.

        Raises BrokerUnavailable.
        """
        pipeline = self._client.pipeline(transaction=False)
        for task_id, due_within in tasks:
            pipeline.set(self._keys.tombstone(task_id), "", px=(due_within + KEEP_LONGER) // MILLISECOND)
        self._breaker.call(pipeline.execute)

    def has(self, task_id: str) -> bool:
        """Raises BrokerUnavailable."""
        return bool(self._breaker.call(lambda: self._client.exists(self._keys.tombstone(task_id))))


class SkipTombstoned(Middleware):
    """Skips a message whose task has a tombstone. Without Redis it runs: every task here may run once too often."""

    def __init__(self, tombstones: Tombstones) -> None:
        self._tombstones = tombstones

    def before_process_message(self, _broker: Broker, message: MessageProxy) -> None:
        try:
            is_cancelled = self._tombstones.has(message.message_id)
        except BrokerUnavailable:
            return
        if is_cancelled:
            raise SkipMessage(f"{message.message_id} was cancelled")
