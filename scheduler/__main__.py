"""The scheduler: `python -m scheduler`. Sends each task of schedules.py when it is due; workers do the work."""

import os
import signal
import sys
import threading
from datetime import UTC

import structlog
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from scheduler.schedules import Schedule, schedules
from shared.clock import Clock, rfc3339
from shared.errors import BrokerUnavailable, InvigilError
from shared.logs import configure_logs
from shared.pulse import Pulse
from shared.services import for_callers
from shared.settings import Settings
from shared.tasks.sender import TaskSender

PULSE_S = 5
STALLED_AFTER_S = 60

_log = structlog.get_logger(__name__)


def main() -> None:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        settings = Settings.from_environ(os.environ)
        configure_logs(settings.log_format, "scheduler")
        services = for_callers(settings)
    except InvigilError as error:
        sys.exit(f"scheduler: {error}")
    scheduler = build(schedules(settings), services.sender, services.clock)
    pulse, beaten = Pulse(settings.pulse_file), threading.Event()

    def beat() -> None:
        pulse.beat()
        beaten.set()

    scheduler.add_job(beat, IntervalTrigger(seconds=PULSE_S, timezone=UTC), next_run_time=services.clock.now())
    scheduler.start()
    _log.info("scheduler_started")
    is_running = watch(stopping, beaten, STALLED_AFTER_S)
    scheduler.shutdown(wait=is_running)
    if not is_running:
        sys.exit("scheduler: it stands still")


def watch(stopping: threading.Event, beaten: threading.Event, stalled_after_s: float) -> bool:
    """True when told to stop; False when nothing has run for so long: its thread has died, or the machine's clock has
    been set back and nothing is due for as long as that was.
    """
    while not stopping.wait(stalled_after_s):
        if not beaten.is_set():
            return False
        beaten.clear()
    return True


def build(rows: tuple[Schedule, ...], sender: TaskSender, clock: Clock) -> BackgroundScheduler:
    """An APScheduler that keeps its jobs in memory: they are all declared in code, and what was missed while it was
    down is made up for by the next run of each.
    """
    scheduler = BackgroundScheduler(
        timezone=UTC,
        job_defaults={
            "coalesce": True,  # after a pause one run is enough: a digest and a sweep take all that has come up
            "max_instances": 1,
            "misfire_grace_time": 60,  # the default, 1 s, drops runs on a busy machine
        },
    )
    for row in rows:
        first = row.due_at(clock.now()) + row.period
        trigger = IntervalTrigger(seconds=row.period.total_seconds(), start_date=first, timezone=UTC)
        scheduler.add_job(send, trigger, args=[row, sender, clock], id=row.task.name)
    return scheduler


def send(row: Schedule, sender: TaskSender, clock: Clock) -> None:
    """Sends the row's task for the time it was last due, unless another scheduler has. Without Redis it is left to the
    next time.
    """
    due_at = row.due_at(clock.now())
    try:
        answer = sender.tick(row.task.name, due_at, row.task, *row.arguments(due_at))
    except BrokerUnavailable as error:
        _log.warning("not_sent", task=row.task.name, why=str(error))
    else:
        if answer == "too_old":
            # This machine's clock is days behind Redis's.
            _log.error("tick_too_old", task=row.task.name, due_at=rfc3339(due_at))


if __name__ == "__main__":
    main()
