"""Actors for Dramatiq's command line: `dramatiq tests.support.cli_tasks`, with the Redis that REDIS_URL names.

Their runs are noted in the list `runs` there.
"""

import os
from threading import Event

import dramatiq
import redis

from tests.support.broker_worker import task_broker

REDIS_URL = os.environ["REDIS_URL"]

_client = redis.Redis.from_url(REDIS_URL)
broker = task_broker(REDIS_URL)
dramatiq.set_broker(broker)


@dramatiq.actor
def work(number: int, seconds: float) -> int:
    """Notes its process and its number once it has waited."""
    Event().wait(seconds)
    _client.rpush("runs", f"{os.getpid()} {number}")
    return number


@dramatiq.actor(min_backoff=1, max_backoff=1)
def fail_once(number: int) -> None:
    if not _client.sadd("failed", number):
        _client.rpush("runs", f"{os.getpid()} {number}")
        return
    raise RuntimeError
