"""A worker of the benchmarks' tasks: `python -m benchmarks.engine.worker THREADS [ours|stock|holding]`.

`stock` is Dramatiq's own broker, without results; `holding` is ours with bodies that never return.
"""

import os
import signal
import sys
import threading

from dramatiq import Broker, Worker
from dramatiq.brokers.redis import RedisBroker

from benchmarks.engine.tasks import QUEUE, declare
from shared.logs import configure_logs
from shared.services import for_worker
from shared.settings import Settings


def main(threads: int, how: str) -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    settings = Settings.from_environ(os.environ)
    configure_logs(settings.log_format, "benchmark")
    broker: Broker = RedisBroker(url=settings.redis_url) if how == "stock" else for_worker(settings).broker  # type: ignore[no-untyped-call]
    tasks = declare(broker, is_held=how == "holding")
    worker = Worker(broker, queues={QUEUE}, worker_threads=threads)
    worker.start()
    tasks.tell.fn("worker-started")
    stopping.wait()
    worker.stop(timeout=25_000)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "ours")
