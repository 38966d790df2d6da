"""How processes connect to Redis."""

import socket

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

ANSWER_WITHIN_S = 0.25  # a caller of the API waits for Redis no longer than this, once a second at most (breaker.py)

CONNECTIONS = 64  # of a worker; whoever needs one more waits until one is free, also of a thousand greenlets

_KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}


def impatient_client(url: str) -> "redis.Redis":
    """For calls that somebody waits for: no retry, and an answer or an error within ANSWER_WITHIN_S."""
    return redis.Redis.from_url(
        url,
        protocol=2,
        socket_timeout=ANSWER_WITHIN_S,
        socket_connect_timeout=ANSWER_WITHIN_S,
        retry=Retry(NoBackoff(), 0),
    )


def patient_client(url: str) -> "redis.Redis":
    """For a worker: a Redis that hangs is waited for, a host that is gone is noticed by keep-alive within 25 s.

    A short break is bridged by three tries within half a second; whoever calls decides about a longer one.
    """
    retry = Retry(ExponentialBackoff(cap=0.3, base=0.05), 3)
    options: dict[str, object] = {"protocol": 2, "socket_timeout": None, "health_check_interval": 15, "retry": retry}
    if not url.startswith("unix:"):
        options |= {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE, "socket_connect_timeout": 5}
    pool = redis.BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, timeout=None, **options)
    return redis.Redis.from_pool(pool)
