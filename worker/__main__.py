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
from importlib.util import find_spec

import structlog
from dramatiq import Worker
from dramatiq.threading import is_gevent_active

from shared.broker.broker import TaskBroker
from shared.broker.worker_parts import WorkerParts
from shared.errors import InvigilError
from shared.logs import configure_logs
from shared.pulse import Pulse
from shared.services import for_worker, routes_of
from shared.settings import Settings
from shared.tasks.catalog import CATALOG, QUEUES
from shared.tasks.connection import connect
from worker.bodies import bodies_of_catalog
from worker.declaring import declare_actors
from worker.gevent_pool import GEVENT, MOST_GREENLETS, begin_anew, check
from worker.scaling import Bounds
from worker.slots import Slots
from worker.supervisor import supervise

STOP_WITHIN = timedelta(seconds=25)  # below the 30 s that container platforms leave a process
LOOK_EVERY = timedelta(seconds=1)
MOST_PROCESSES = 64
MOST_THREADS = 256
THREADS_ALLOWED = f"give a whole number from 1 to {MOST_THREADS}, or to {MOST_GREENLETS} with --pool {GEVENT}"

_log = structlog.get_logger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if options.pool == GEVENT and not options.autoscale and not is_gevent_active():  # type: ignore[no-untyped-call]
        begin_anew(sys.argv[1:] if arguments is None else arguments)
    orders = Orders()
    orders.listen()
    try:
        settings = Settings.from_environ(os.environ)
        kind = "supervisor" if options.autoscale else "worker"
        configure_logs(settings.log_format, f"{kind}-{'-'.join(options.queues)}")
        routes = routes_of(settings)
        if unknown := [queue for queue in options.queues if queue not in routes.queues]:
            sys.exit(f"worker: there is no queue {unknown[0]!r}; there are {', '.join(routes.queues)}")
        at_home = [task for task in CATALOG.values() if routes.queue_of(task) in options.queues]
        if options.pool == GEVENT:
            check(at_home)
        if options.autoscale:
            supervise(settings, _command(options), options.queues, options.threads, options.autoscale, orders.to_stop)
            return
        services = for_worker(settings)
        connect(services.sender)
        slots = Slots("worker.child:runner", ["worker.child"]) if options.pool != GEVENT else None
        declare_actors(services, bodies_of_catalog(), options.queues, slots)
        if slots is not None and any(task.needs_child for task in at_home):
            slots.start()
    except InvigilError as error:
        sys.exit(f"worker: {error}")
    pulse = Pulse(settings.pulse_file)
    pulse.beat()  # with nothing begun yet: a supervisor sends SIGUSR1 from now on, and has sent SIGTERM until now
    is_whole = orders.to_drain.is_set() or _work(services.broker, options, orders, pulse)
    if slots is not None:
        slots.close()
    if not is_whole:
        sys.exit("worker: one of its threads died")


class Orders:
    """What signals tell this process. To drain, by SIGUSR1: it takes nothing any more, and ends when what it runs has
    ended. To stop, by SIGTERM and SIGINT: the same, but within STOP_WITHIN.
    """

    def __init__(self) -> None:
        self.to_drain = threading.Event()  # set in either case, to wake who waits for any of them
        self.to_stop = threading.Event()

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        signal.signal(signal.SIGUSR1, lambda *_: self.drain())

    def drain(self) -> None:
        self.to_drain.set()

    def stop(self) -> None:
        self.to_stop.set()
        self.to_drain.set()


def start(broker: TaskBroker, queues: Collection[str], threads: int) -> Worker:
    """Dramatiq's Worker, running the tasks that have been declared."""
    worker = Worker(broker, queues=set(queues), worker_threads=threads)
    worker.start()
    return worker


def _work(broker: TaskBroker, options: argparse.Namespace, orders: Orders, pulse: Pulse) -> bool:
    """To its end; False as `watch` says."""
    worker = start(broker, options.queues, options.threads)
    _log.info("worker_started", queues=options.queues, threads=options.threads)
    is_whole = watch(worker, broker.lifecycle.booted, orders, pulse, LOOK_EVERY)
    worker.stop(timeout=STOP_WITHIN // timedelta(milliseconds=1))
    return is_whole


def watch(worker: Worker, parts: WorkerParts, orders: Orders, pulse: Pulse, every: timedelta) -> bool:
    """True when told to stop, or when told to drain and nothing is left to do; False when a thread of Dramatiq's or of
    the engine's has died: none is started again.
    """
    while not orders.to_stop.is_set():
        threads = [*worker.consumers.values(), *worker.workers, *parts.loops]
        if dead := [thread.name for thread in threads if not thread.is_alive()]:
            _log.critical("thread_died", threads=dead)
            return False
        pulse.beat()
        if not orders.to_drain.is_set():
            orders.to_drain.wait(every.total_seconds())
            continue
        parts.room.close()
        if parts.room.is_vacated:
            break
        orders.to_stop.wait(every.total_seconds())
    return True


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker", description="Runs tasks of some queues.")
    parser.add_argument("--queues", type=_queues, default=QUEUES, help=f"separated by commas: {', '.join(QUEUES)}")
    parser.add_argument("--threads", type=_threads, default=8, help="how many tasks run at once (8)")
    parser.add_argument(
        "--autoscale", type=_bounds, metavar="MAX,MIN", help="as many processes of so many threads as the queues need"
    )
    parser.add_argument(
        "--pool", choices=("threads", GEVENT), default="threads", help=f"{GEVENT}: a thousand tasks that only wait"
    )
    options = parser.parse_args(arguments)
    if options.threads > (MOST_GREENLETS if options.pool == GEVENT else MOST_THREADS):
        parser.error(f"argument --threads: {THREADS_ALLOWED}")
    if options.pool == GEVENT and find_spec(GEVENT) is None:
        parser.error(f"--pool {GEVENT} needs a package: pip install --require-hashes -r requirements/{GEVENT}.txt")
    return options


def _queues(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(THREADS_ALLOWED)
    return int(text)


def _bounds(text: str) -> Bounds:
    most, _, fewest = text.partition(",")
    if not (most.isdecimal() and fewest.isdecimal() and 1 <= int(fewest) <= int(most) <= MOST_PROCESSES):
        raise argparse.ArgumentTypeError(f"give MAX,MIN: whole numbers from 1 to {MOST_PROCESSES}, such as 8,1")
    return Bounds(int(most), int(fewest))


def _command(options: argparse.Namespace) -> list[str]:
    """Of one process, where there are several."""
    queues, threads = ",".join(options.queues), str(options.threads)
    return [sys.executable, "-m", "worker", "--queues", queues, "--threads", threads, "--pool", options.pool]


if __name__ == "__main__":
    main()
