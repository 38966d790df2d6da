"""A worker of greenlets that runs tasks of the tests, with the Redis that REDIS_URL names and a pulse at PULSE:

python -m gevent.monkey --module tests.support.gevent_worker THREADS MS_TO_STOP_WITHIN
"""

import os
import sys
import threading
import time
from datetime import timedelta

import dramatiq
import structlog
from dramatiq.middleware import TimeLimitExceeded

from shared.logs import configure_logs
from shared.pulse import Pulse
from tests.support.broker_worker import WITHIN_S, task_broker
from worker.__main__ import Orders, start, watch

THREADS = int(sys.argv[1])
FAR = 100 * WITHIN_S

broker = task_broker(os.environ["REDIS_URL"])
all_at_once = threading.Barrier(THREADS, timeout=2 * WITHIN_S)
failed: set[int] = set()


@dramatiq.actor(broker=broker)
def meet(number: int) -> int:
    """Ends well only where as many as there are greenlets run at the same time; each sleeps for a second then."""
    all_at_once.wait()
    time.sleep(1)
    return number


@dramatiq.actor(broker=broker)
def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@dramatiq.actor(broker=broker, min_backoff=1, max_backoff=1)
def fail_once(number: int) -> int:
    if number not in failed:
        failed.add(number)
        raise RuntimeError
    return number


@dramatiq.actor(broker=broker)
def send_another() -> str:
    """While all others send one too."""
    all_at_once.wait()
    return sleep.send(0).message_id


@dramatiq.actor(broker=broker, max_retries=0, time_limit=100)
def sleep_too_long() -> None:
    time.sleep(FAR)


@dramatiq.actor(broker=broker, max_retries=0, time_limit=100)
def swallow_the_limit() -> int:
    """Goes on after its interrupt, and waits again."""
    try:
        time.sleep(FAR)
    except TimeLimitExceeded:
        time.sleep(1)
    return threading.get_ident()


@dramatiq.actor(broker=broker)
def end_the_greenlet() -> None:
    """Its own, once it has told how this ended."""
    thread = threading.current_thread()
    assert isinstance(thread, dramatiq.worker.WorkerThread)
    thread.stop()


def main() -> None:
    orders = Orders()
    orders.listen()
    configure_logs("json", "gevent")
    worker = start(broker, ["default"], THREADS)
    structlog.get_logger().info("worker_started")
    pulse = Pulse(os.environ["PULSE"])
    is_whole = watch(worker, broker.lifecycle.booted, orders, pulse, timedelta(seconds=0.1))
    worker.stop(timeout=int(sys.argv[2]))
    sys.exit(not is_whole)


if __name__ == "__main__":
    main()
