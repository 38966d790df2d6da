"""A worker: `python -m worker --queues exams --threads 8`.

One process around Dramatiq's own Worker. Dramatiq's command line would add a master that stops everything when one
of its processes dies; restarting is left to whatever started this one, which does it for every part alike.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Collection, Sequence
from datetime import timedelta

import structlog
from dramatiq import Worker

from shared.broker.broker import TaskBroker
from shared.errors import InvigilError
from shared.logs import configure_logs
from shared.pulse import Pulse
from shared.services import for_worker
from shared.settings import Settings
from shared.tasks.catalog import QUEUES
from worker.actors import declare_actors

STOP_WITHIN = timedelta(seconds=25)  # below the 30 s that container platforms leave a process
LOOK_EVERY = timedelta(seconds=1)

_log = structlog.get_logger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        settings = Settings.from_environ(os.environ)
        configure_logs(settings.log_format, f"worker-{'-'.join(options.queues)}")
        services = for_worker(settings)
        declare_actors(services, options.queues)
    except InvigilError as error:
        sys.exit(f"worker: {error}")
    worker = start(services.broker, options.queues, options.threads)
    _log.info("worker_started", queues=options.queues, threads=options.threads)
    loops = services.broker.lifecycle.booted.loops
    is_whole = watch(worker, loops, stopping, Pulse(settings.pulse_file), LOOK_EVERY)
    worker.stop(timeout=STOP_WITHIN // timedelta(milliseconds=1))
    if not is_whole:
        sys.exit("worker: one of its threads died")


def start(broker: TaskBroker, queues: Collection[str], threads: int) -> Worker:
    """Dramatiq's Worker, running the tasks that have been declared."""
    worker = Worker(broker, queues=set(queues), worker_threads=threads)
    worker.start()
    return worker


def watch(
    worker: Worker, loops: Sequence[threading.Thread], stopping: threading.Event, pulse: Pulse, every: timedelta
) -> bool:
    """True when told to stop; False when a thread of Dramatiq's or of the engine's has died: none is started again."""
    while not stopping.wait(every.total_seconds()):
        threads = [*worker.consumers.values(), *worker.workers, *loops]
        if dead := [thread.name for thread in threads if not thread.is_alive()]:
            _log.critical("thread_died", threads=dead)
            return False
        pulse.beat()
    return True


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker", description="Runs tasks of some queues.")
    parser.add_argument("--queues", type=_queues, default=QUEUES, help=f"separated by commas: {', '.join(QUEUES)}")
    parser.add_argument("--threads", type=_threads, default=8, help="how many tasks run at once (8)")
    return parser.parse_args(arguments)


def _queues(text: str) -> tuple[str, ...]:
    queues = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if unknown := [queue for queue in queues if queue not in QUEUES]:
        raise argparse.ArgumentTypeError(f"there is no queue {unknown[0]!r}; there are {', '.join(QUEUES)}")
    return queues


def _threads(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError("give a whole number from 1 to 256")
    return int(text)


if __name__ == "__main__":
    main()
