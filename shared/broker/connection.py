"""How processes connect to Redis, and the Dramatiq broker on top."""

import copy
import socket
from collections.abc import Sequence
from typing import Any

import msgspec
import redis
from dramatiq import Encoder, Message, Middleware, set_encoder
from dramatiq.brokers.redis import RedisBroker
from dramatiq.encoder import MessageData
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.redis_keys import RedisKeys

ANSWER_WITHIN_S = 0.25  # a caller of the API waits for Redis no longer than this, once a second at most (breaker.py)

# Dramatiq's Redis broker hands a dead worker's messages back only after this silence, and then only when a command
# draws maintenance by lot. The defaults, 60 s and one in a thousand, have cost 21 minutes; with these it is seconds.
# The price is that a worker frozen for longer sees its tasks run a second time.
HEARTBEAT_TIMEOUT_MS = 10_000
MAINTENANCE_IN_A_MILLION = 1_000_000

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

    No timeout on answers: Dramatiq's consumer thread ends for good on a redis.TimeoutError while it holds delayed
    messages.
    """
    options: dict[str, object] = {"protocol": 2, "socket_timeout": None, "health_check_interval": 15}
    if not url.startswith("unix:"):
        options |= {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE, "socket_connect_timeout": 5}
    return redis.Redis.from_url(url, **options)


class MessageEncoder(Encoder):
    """Messages as JSON, as Dramatiq writes them, in a tenth of the time."""

    def encode(self, data: MessageData) -> bytes:
        return msgspec.json.encode(data)

    def decode(self, data: bytes) -> MessageData:
        message: MessageData = msgspec.json.decode(data)
        return message


class BatchingBroker(RedisBroker):
    """Dramatiq's Redis broker, which can also enqueue several messages in one round trip instead of one each."""

    def enqueue_many(self, messages: Sequence[tuple[Message[None], int | None]]) -> None:
        """Each message with its delay in milliseconds, or None for at once. After an error any may be queued."""
        answers = self._enqueue_together(messages)
        unknown = [each for each, answer in zip(messages, answers, strict=True) if _is_unknown_script(answer)]
        if unknown:  # Redis has been restarted, and did not run these
            self.client.script_load(self.scripts["dispatch"].script)
            answers = [each for each in answers if not _is_unknown_script(each)] + self._enqueue_together(unknown)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer

    def _enqueue_together(self, messages: Sequence[tuple[Message[None], int | None]]) -> list[object]:
        """What Redis answers to each, errors included."""
        sha = self.scripts["dispatch"].sha
        with self.client.pipeline(transaction=False) as pipeline:

            def dispatch(args: Sequence[Any], keys: Sequence[str]) -> None:
                pipeline.evalsha(sha, len(keys), *keys, *args)

            into_pipeline = copy.copy(self)
            into_pipeline.scripts = {**self.scripts, "dispatch": dispatch}
            for message, delay_ms in messages:
                into_pipeline.enqueue(message, delay=delay_ms)
            answers: list[object] = pipeline.execute(raise_on_error=False)
            return answers


def _is_unknown_script(answer: object) -> bool:
    return isinstance(answer, redis.exceptions.NoScriptError)


def open_broker(client: "redis.Redis", keys: RedisKeys, middleware: Sequence[Middleware] = ()) -> BatchingBroker:
    """Connects when first used. The encoder is Dramatiq's for the whole process; it reads what others have written."""
    set_encoder(MessageEncoder())
    return BatchingBroker(  # type: ignore[no-untyped-call]
        client=client,
        middleware=list(middleware),
        namespace=keys.dramatiq,
        heartbeat_timeout=HEARTBEAT_TIMEOUT_MS,
        maintenance_chance=MAINTENANCE_IN_A_MILLION,
    )
