"""`python -m worker --autoscale 8,1`: worker processes, as many as their queues need.

Each runs in a session of its own, so that the death of one stops no other, and is started again when it dies or
freezes. scaling.py decides how many there are; one that is no longer needed drains: it takes nothing any more, and ends
when its work has, however long that takes.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial

import structlog

from shared.broker.engine import QueueStats
from shared.errors import BrokerUnavailable
from shared.pulse import Pulse
from shared.services import engine_to_look_at
from shared.settings import Settings
from worker.process_tree import adopt_orphans, bury_orphans, end_with
from worker.scaling import Bounds, Memory, Sight, after_a_gap, decide

LOOK_EVERY_S = 0.5
FROZEN_AFTER_LOOKS = 60  # without a beat, which a worker makes each second; looks, as this process may be paused too
RESTART_AFTER_S = 0.5  # then twice as long each time, so that none is started in a tight loop
RESTART_AT_LEAST_EVERY_S = 10.0
HEALTHY_AFTER_S = 30.0
STOP_WITHIN_S = 28.0  # a little longer than workers give their own work, below the 30 s of container platforms

_log = structlog.get_logger(__name__)


class Child:
    """A worker process; when it dies, the next one after a while that grows with each death."""

    def __init__(self, command: Sequence[str], pulse: str) -> None:
        self._command = command
        self._pulse = pulse
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at_s = self._started_at_s = 0.0
        self._wait_s = RESTART_AFTER_S / 2
        self._beat: int | None = None
        self._looks_without_beat = 0

    def keep_running(self, now_s: float) -> None:
        """Starts it where it is not running; kills it where it has shown no sign of life for long."""
        if self._process is None:
            if now_s >= self._start_at_s:
                self._start(now_s)
        elif (status := self._process.poll()) is not None:
            self._end_session(self._process)
            self._plan_restart(now_s)
            _log.error("worker_died", pid=self._process.pid, status=status, restart_in_s=self._wait_s)
            self._process = None
        else:
            self._look_for_beat(self._process)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def is_serving(self) -> bool:
        """It has booted, and runs as far as is known."""
        return self._process is not None and self._beat is not None

    def drain(self) -> None:
        """Asks it to end once it has ended its work, whenever that is."""
        if self._process is not None:
            # Before its first beat it has no work, and SIGUSR1 may have no handler yet.
            has_beaten = os.path.exists(self._pulse)
            self._process.send_signal(signal.SIGUSR1 if has_beaten else signal.SIGTERM)

    def stop(self) -> None:
        """Asks it to end within its time, also where it drains."""
        if self._process is not None:
            self._process.terminate()

    def has_drained(self) -> bool:
        """Whether it is gone for good. Kills it where it shows no sign of life for long: others do its work then."""
        if self._process is None:
            return True
        if (status := self._process.poll()) is None:
            self._look_for_beat(self._process)
            return False
        self._end_session(self._process)
        _log.info("worker_drained", pid=self._process.pid, status=status)
        self._process = None
        return True

    def end_by(self, give_up_at_s: float) -> None:
        """Waits until it has ended, and kills it after that."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, give_up_at_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            _log.error("worker_overstays", pid=self._process.pid)
            self._end_session(self._process)
            self._process.wait()
        self.has_drained()

    def _start(self, now_s: float) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._pulse)
        self._beat, self._looks_without_beat = None, 0
        self._started_at_s = now_s
        environ = {name: value for name, value in os.environ.items() if name != "INVIGIL_PULSE_FILE_FILE"}
        environ["INVIGIL_PULSE_FILE"] = self._pulse
        try:
            self._process = subprocess.Popen(
                self._command, env=environ, start_new_session=True, preexec_fn=partial(end_with, os.getpid())
            )
        except OSError as error:
            self._plan_restart(now_s)
            _log.error("worker_not_started", why=str(error), restart_in_s=self._wait_s)

    def _plan_restart(self, now_s: float) -> None:
        was_healthy = now_s - self._started_at_s >= HEALTHY_AFTER_S
        self._wait_s = RESTART_AFTER_S if was_healthy else min(2 * self._wait_s, RESTART_AT_LEAST_EVERY_S)
        self._start_at_s = now_s + self._wait_s

    def _look_for_beat(self, process: "subprocess.Popen[bytes]") -> None:
        beat = os.stat(self._pulse).st_mtime_ns if os.path.exists(self._pulse) else None
        self._looks_without_beat = self._looks_without_beat + 1 if beat == self._beat else 0
        self._beat = beat
        if self._looks_without_beat >= FROZEN_AFTER_LOOKS:
            _log.error("worker_frozen", pid=process.pid, silent_s=self._looks_without_beat * LOOK_EVERY_S)
            self._looks_without_beat = 0
            self._end_session(process)

    def _end_session(self, process: "subprocess.Popen[bytes]") -> None:
        """Kills it and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


class Supervisor:
    """Keeps as many children as the queues need, from the fewest on; beats while one of them serves.

    `look` raises BrokerUnavailable where Redis fails: then there stay as many as there are.
    """

    def __init__(
        self,
        new_child: Callable[[], Child],
        look: Callable[[], Iterable[QueueStats]],
        bounds: Bounds,
        threads: int,
        pulse: Pulse,
    ) -> None:
        self._new_child = new_child
        self._look = look
        self._bounds = bounds
        self._threads = threads
        self._pulse = pulse
        self._children = [new_child() for _ in range(bounds.fewest)]
        self._draining: list[Child] = []
        self._memory = Memory()
        self._is_redis_away = False

    def run_once(self, now_s: float) -> None:
        self._draining = [child for child in self._draining if not child.has_drained()]
        self._scale(now_s)
        for child in self._children:
            child.keep_running(now_s)
        if any(child.is_serving for child in self._children):
            self._pulse.beat()

    def pids(self) -> set[int | None]:
        return {child.pid for child in (*self._draining, *self._children)}

    def stop(self) -> None:
        """All children are to end; what is left of them after STOP_WITHIN_S is killed."""
        _log.info("supervisor_ends", processes=len(self._children), draining=len(self._draining))
        leaving = [*self._draining, *self._children]
        for child in leaving:
            child.stop()
        give_up_at_s = time.monotonic() + STOP_WITHIN_S
        for child in leaving:
            child.end_by(give_up_at_s)

    def _scale(self, now_s: float) -> None:
        try:
            queues = list(self._look())
        except BrokerUnavailable as error:
            if not self._is_redis_away:
                _log.warning("redis_away", why=str(error), processes=len(self._children))
            self._is_redis_away = True
            self._memory = after_a_gap(self._memory)
            return
        if self._is_redis_away:
            _log.info("redis_back")
        self._is_redis_away = False
        sight = self._sight(now_s, queues)
        bounds = self._bounds
        # Those that drain may do so for long, and there is no more memory than for the most.
        bounds = bounds._replace(most=max(bounds.fewest, bounds.most - len(self._draining)))
        decision, self._memory = decide(bounds, self._threads, sight, self._memory)
        if decision.to != sight.present:
            figures = {"waiting": sight.waiting, "running": sight.running, "oldest_s": sight.oldest.total_seconds()}
            _log.info("scaled", **{"from": sight.present}, to=decision.to, reason=decision.reason, **figures)
        self._children += [self._new_child() for _ in range(decision.to - sight.present)]
        for _ in range(sight.present - decision.to):
            self._let_one_go()

    def _sight(self, now_s: float, queues: Sequence[QueueStats]) -> Sight:
        return Sight(
            at_s=now_s,
            waiting=sum(sum(queue.ready) + queue.alone + queue.overdue for queue in queues),
            running=sum(queue.leased for queue in queues),
            oldest=max((queue.oldest_ready or timedelta() for queue in queues), default=timedelta()),
            present=len(self._children),
            serving=sum(child.is_serving for child in self._children),
        )

    def _let_one_go(self) -> None:
        """One that does not serve, or else the youngest."""
        leaving = next((child for child in self._children if not child.is_serving), self._children[-1])
        self._children.remove(leaving)
        leaving.drain()
        self._draining.append(leaving)


def supervise(
    settings: Settings,
    command: Sequence[str],
    queues: Sequence[str],
    threads: int,
    bounds: Bounds,
    stopping: threading.Event,
) -> None:
    """Until told to stop. `command` starts a worker that serves these queues with so many threads."""
    engine = engine_to_look_at(settings)
    adopt_orphans()  # what a killed worker leaves; in a container they fall to this process anyway
    with tempfile.TemporaryDirectory(prefix="invigil-pulses-") as folder:
        numbers = itertools.count(1)
        supervisor = Supervisor(
            lambda: Child(command, f"{folder}/{next(numbers)}"),
            lambda: engine.stats(queues).values(),
            bounds,
            threads,
            Pulse(settings.pulse_file),
        )
        _log.info("supervisor_started", queues=queues, threads=threads, most=bounds.most, fewest=bounds.fewest)
        try:
            while not stopping.is_set():
                supervisor.run_once(time.monotonic())
                bury_orphans(keep=supervisor.pids())
                stopping.wait(LOOK_EVERY_S)
        finally:
            supervisor.stop()
