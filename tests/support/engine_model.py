"""A model of the engine in plain Python: what each call is to answer, and where each task is then."""

from dataclasses import dataclass, field

from shared.broker.record import pack_id
from shared.broker.states import Outcome, Reason, State

QUEUES = ["a", "b"]
PRIORITIES = range(10)


@dataclass
class Task:
    """A task, and where it is: due, ready, alone, leased, dead, ended, or forgotten."""

    id: str
    queue: str
    priority: int
    expires: bool = False
    where: str = ""
    at: int = 0  # ms, while it is due
    place: int = 0
    state: State = State.PENDING
    reason: Reason | None = None
    token: str | None = None
    begun: bool = False
    is_killable: bool = False
    is_told: bool = False  # Redis knows what it is, beside its message
    progress: int | None = None
    is_known: bool = False  # it has been held: more than its message is stored
    lapsed_at: int | None = None
    is_cancelled: bool = False
    is_to_stop: bool = False
    lost: int = 0
    returns: int = 0
    retries: int = 0
    deliveries: int = 0

    @property
    def is_over(self) -> bool:
        return self.where in {"dead", "ended"}

    @property
    def is_to_be_killed(self) -> bool:
        return self.is_to_stop and self.is_killable


@dataclass
class Model:
    """What each call is to answer and to change."""

    tasks: dict[str, Task] = field(default_factory=dict)
    forgotten: dict[str, Task] = field(default_factory=dict)
    recent: dict[str, set[str]] = field(default_factory=lambda: {queue: set() for queue in QUEUES})
    asked: dict[str, int] = field(default_factory=dict)
    signals: set[str] = field(default_factory=set)
    sooner: set[str] = field(default_factory=set)
    places: int = 0

    def of(self, queue: str, where: str) -> list[Task]:
        """In the order in which they are taken."""
        tasks = [task for task in self.tasks.values() if (task.queue, task.where) == (queue, where)]
        if where == "due":
            return sorted(tasks, key=lambda task: (task.at, pack_id(task.id)))
        return sorted(tasks, key=lambda task: task.place)

    def ready(self, queue: str, priority: int) -> list[Task]:
        return [task for task in self.of(queue, "ready") if task.priority == priority]

    def enqueue(self, task: Task, at: int | None) -> None:
        """`at`: ms, or None for one that is due."""
        self.tasks[task.id] = task
        self.schedule(task, at)

    def schedule(self, task: Task, at: int | None) -> None:
        if at is None:
            self._make_ready(task)
            self.signals.add(task.queue)
            return
        others = self.of(task.queue, "due")
        task.where, task.at = "due", at
        if not others or at < others[0].at:
            self.sooner.add(task.queue)

    def promote(self, now: int, wakes_another: bool) -> list[str]:
        waiting = []
        for queue in QUEUES:
            for task in self.of(queue, "due"):
                if task.at <= now:
                    self._make_ready(task)
            if self.of(queue, "ready") or self.of(queue, "alone"):
                waiting.append(queue)
        if wakes_another:
            self.signals.update(waiting)
        return waiting

    def fetch(self, queue: str, limit: int, token: str) -> tuple[list[Task], bool, bool]:
        alone = self.of(queue, "alone")[:1]
        found = alone or self._by_priority(queue, limit)
        for task in found:
            task.where, task.token, task.begun, task.is_known, task.lapsed_at = "leased", token, False, True, None
        is_more = bool((alone or len(found) == limit) and (self.of(queue, "alone") or self.of(queue, "ready")))
        if is_more:
            self.signals.add(queue)
        return found, bool(alone), is_more

    def begin(self, task: Task, token: str, is_killable: bool) -> str:
        if task.token != token:
            if not task.is_over:
                return "lost"
            return "revoked" if task.state is State.REVOKED else "done"
        if task.begun:
            return "run"
        task.is_told = True
        if task.expires:
            self._end(task, State.REVOKED, Reason.EXPIRED)
            return "expired"
        task.begun, task.state, task.is_killable = True, State.STARTED, is_killable
        task.progress = None
        task.deliveries += 1
        return "run"

    def finish(self, task: Task, token: str, outcome: Outcome, is_dead: bool) -> str:
        if task.token != token:
            return "lost"
        task.is_told = True
        if task.is_to_be_killed:
            self._end(task, State.REVOKED, Reason.TERMINATED)
            return "finished" if outcome.state is State.REVOKED else "revoked"
        self._end(task, State.FAILURE if is_dead else outcome.state, outcome.reason, is_dead)
        return "finished"

    def retry(self, task: Task, token: str, at: int | None, state: State, retries: int) -> str:
        if task.token != token:
            return "lost"
        if task.is_cancelled:
            self._end_cancelled(task)
            return "revoked"
        task.token, task.begun, task.is_killable, task.lost, task.returns = None, False, False, 0, 0
        task.state, task.retries = state, retries
        self.schedule(task, at)
        return "retried"

    def renew(self, task: Task, token: str) -> str:
        if task.token != token:
            return "lost"
        task.lapsed_at = None
        return "interrupt" if task.is_to_stop else "cancelled" if task.is_cancelled else "held"

    def tell_progress(self, task: Task, token: str, progress: int) -> None:
        if task.token == token:
            task.progress = progress

    def give_back(self, task: Task, token: str) -> str:
        return self._put_back(task, False) if task.token == token else "lost"

    def reap(self) -> list[tuple[str, str]]:
        lapsed = [
            task
            for queue in QUEUES
            for task in sorted(self.of(queue, "leased"), key=lambda task: (task.lapsed_at or 0, pack_id(task.id)))
            if task.lapsed_at is not None
        ]
        return [(task.id, self._put_back(task, True)) for task in lapsed]

    def cancel(self, task: Task | None, interrupts: bool) -> str:
        if task is None:
            return "unknown"
        if task.is_over:
            return "revoked" if task.state is State.REVOKED else "too_late"
        if task.begun:
            task.is_cancelled = True
            task.is_to_stop = task.is_to_stop or interrupts
            return "terminated" if interrupts and task.is_killable else "running"
        self._end(task, State.REVOKED, Reason.CANCELLED)
        return "revoked"

    def forget(self, task: Task) -> None:
        """One that is over."""
        task.where = "forgotten"
        self.forgotten[task.id] = self.tasks.pop(task.id)
        self.recent[task.queue].discard(task.id)

    def move(self, task: Task | None, at: int | None) -> str:
        if task is None:
            return "unknown"
        if task.is_over:
            return "ended"
        if task.begun:
            return "running"
        task.where, task.token = "", None
        self.schedule(task, at)
        return "moved"

    def _by_priority(self, queue: str, limit: int) -> list[Task]:
        asked = self.asked.get(queue, 0)
        self.asked[queue] = asked + limit
        ready = [task for priority in reversed(PRIORITIES) for task in self.ready(queue, priority)]
        kept = (asked + limit) // 16 - asked // 16
        rest = ready[limit - kept :]
        lowest = [task for priority in PRIORITIES for task in self.ready(queue, priority) if task in rest]
        return ready[: limit - kept] + lowest[:kept]

    def _make_ready(self, task: Task) -> None:
        self.places += 1
        task.where, task.place = "alone" if task.lost >= 2 else "ready", self.places

    def _put_back(self, task: Task, is_lost: bool) -> str:
        was_begun, task.begun, task.token = task.begun, False, None
        task.lost += was_begun and is_lost
        task.returns += not was_begun
        if task.is_cancelled:
            self._end_cancelled(task)
            return "revoked"
        if task.lost > 5 or task.returns > 50:
            self._end(task, State.FAILURE, None, is_dead=True)
            return "buried"
        task.where, task.is_killable = "alone" if task.lost >= 2 else "ready", False
        if was_begun:
            task.state = State.PENDING
        self.signals.add(task.queue)
        return "lost" if was_begun else "returned"

    def _end_cancelled(self, task: Task) -> None:
        """One that has begun before."""
        self._end(task, State.REVOKED, Reason.TERMINATED if task.is_to_be_killed else Reason.CANCELLED)

    def _end(self, task: Task, state: State, reason: Reason | None, is_dead: bool = False) -> None:
        task.where = "dead" if is_dead else "ended"
        task.state, task.reason, task.token, task.begun = state, reason, None, False
        if task.is_told or is_dead:
            self.recent[task.queue].add(task.id)
