"""The register of exams: what may be appended when. Stores say who won; this decides what to try and what to answer.

Used by the API (starts, results, reading) and by workers (deadlines, sweep). Each call asks the clock once, at its
outermost line, except that a lost race is decided anew.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from shared.clock import Clock
from shared.errors import ExamConflict, ExamNotFound, InvigilError, StoreDamaged, StoreUnavailable
from shared.exams.model import Ended, Event, Exam, History, Started, Status, absence
from shared.exams.pk import new_pk, started_at
from shared.exams.store import ExamStore, Scan

RECORDS_READ = 2_000  # per list call; a call that reads more would hold its thread for over 100 ms
SWEEP_BATCH = 500  # markers looked at per sweep; at about 1 ms each it stays well below its time limit
SETTLED_TOGETHER = 50  # a sweep that runs out of time on a slow disk has settled at least some
_WORTH_WAITING = timedelta(seconds=2)  # clocks of hosts that are ready differ by less


class DeadlineAlarm(Protocol):
    """Calls for an exam at its deadline. A convenience: what it misses, readers and the sweep settle."""

    def set(self, exams: Sequence[Exam]) -> None: ...

    def cancel(self, exams: Sequence[Exam]) -> None: ...


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A request to start an exam."""

    candidate: str | None
    title: str | None
    duration: timedelta


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A request to end one; `received_at` is when the whole of it had arrived."""

    pk: str
    status: Status
    received_at: datetime


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which exams to list, newest first; `before` is the pk at which the page before this one ended."""

    status: Status | None = None
    candidate: str | None = None
    started_from: datetime | None = None
    started_to: datetime | None = None
    before: str | None = None
    limit: int = 50


class Page(msgspec.Struct, frozen=True):
    """Some exams, perhaps fewer than asked for, and where to go on; None at the end."""

    exams: list[Exam]
    next_before: str | None


class ExamRegister:
    """Exams in `store`, called for by `alarm`; absent once `settle_margin` has passed after their deadline."""

    def __init__(self, store: ExamStore, alarm: DeadlineAlarm, clock: Clock, settle_margin: timedelta) -> None:
        self._store = store
        self._alarm = alarm
        self._clock = clock
        self._margin = settle_margin

    def start(self, starts: Sequence[Start]) -> list[Exam | InvigilError]:
        """Starts each, durably; an exam voided meanwhile gives StoreUnavailable in its place."""
        now = self._clock.now()
        given_up = StoreUnavailable("this start took so long that it was given up")
        return [exam or given_up for exam in self.begin([(new_pk(now), start) for start in starts])]

    def begin(self, starts: Sequence[tuple[str, Start]]) -> list[Exam | None]:
        """Starts each under its pk, which says when it started, durably. None: that pk was begun before, or voided."""
        now = self._clock.now()
        begun = [(pk, _started(start, started_at(pk), now)) for pk, start in starts]
        won = self._store.start(begun)
        exams = [_exam(History(pk, [event])) for pk, event in begun]
        self._alarm.set([exam for exam, is_ours in zip(exams, won, strict=True) if is_ours])
        return [exam if is_ours else None for exam, is_ours in zip(exams, won, strict=True)]

    def record_results(self, results: Sequence[Result]) -> list[Exam | InvigilError]:
        """The exam for each result that stands; else ExamNotFound, StoreDamaged or, with the exam, ExamConflict."""
        try:
            return self._record(results)
        except StoreDamaged as error:
            if len(results) == 1:
                return [error]
            return [answer for result in results for answer in self.record_results([result])]

    def _record(self, results: Sequence[Result]) -> list[Exam | InvigilError]:
        answers: dict[int, Exam | InvigilError] = {}
        while open_ := [index for index in range(len(results)) if index not in answers]:
            now = self._clock.now()
            histories = self._store.read([results[index].pk for index in open_])
            appends: dict[int, tuple[History, Ended]] = {}
            known: list[History] = []
            for index, history in zip(open_, histories, strict=True):
                verdict = self._verdict(results[index], history, now)
                if isinstance(verdict, Ended):
                    appends[index] = (history, verdict)
                else:
                    answers[index] = verdict
                    known.append(history)
            self._store.make_durable(known, now)
            ended = self._append(list(appends.values()))
            for index, history_now in zip(appends, ended, strict=True):
                if history_now is not None:
                    answers[index] = _answer(_exam(history_now), results[index])
        return [answers[index] for index in range(len(results))]

    def read(self, pk: str) -> Exam:
        """The exam as it stands now: an overdue one is settled first. Raises ExamNotFound."""
        return _exam(self._current(pk))

    def find(self, pks: Sequence[str]) -> list[Exam | InvigilError]:
        """Each as `read` gives it; ExamNotFound or StoreDamaged in its place."""
        try:
            histories = self._store.read(pks)
        except StoreDamaged as error:
            if len(pks) == 1:
                return [error]
            return [exam for pk in pks for exam in self.find([pk])]
        now = self._clock.now()
        settled = self._settled([history for history in histories if history.fold() is not None], now)
        self._store.make_durable(settled, now)
        exams = {history.pk: _exam(history) for history in settled}
        return [exams.get(pk) or ExamNotFound() for pk in pks]

    def events(self, pk: str) -> Sequence[Event]:
        """What happened to it, in order; an overdue one is settled first. Raises ExamNotFound."""
        return self._current(pk).events

    def page(self, query: ListQuery) -> Page:
        """A page, newest first. Reads at most RECORDS_READ records, and settles what it shows."""
        now = self._clock.now()
        scan = Scan(
            started_from=query.started_from,
            started_to=query.started_to,
            candidate=query.candidate,
            before=query.before,
            running_only=query.status is Status.STARTED,
        )
        found: list[History] = []
        next_before: str | None = None
        for walked, history in enumerate(self._store.scan(scan), 1):
            if self._fits(history, query.status, now):
                found.append(history)
            if len(found) == query.limit or walked == RECORDS_READ:
                next_before = history.pk
                break
        shown = self._settled(found, now)
        self._store.make_durable(shown, now)
        exams = [_exam(history) for history in shown if self._fits(history, query.status, now)]
        return Page(exams, next_before)

    def settle(self, pks: Sequence[str]) -> list[Exam | InvigilError]:
        """Ends each exam at its deadline: waits for those up to 2 s away. One further off is given back undecided.

        An exam unknown or damaged gives ExamNotFound or StoreDamaged in its place.
        """
        try:
            histories = self._store.read(pks)
        except StoreDamaged as error:
            if len(pks) == 1:
                return [error]
            return [exam for pk in pks for exam in self.settle([pk])]
        known = [history for history in histories if history.fold() is not None]
        now = self._clock.now()
        ended = self._settled(known, now)
        early = [exam.deadline_at + self._margin - now for exam in map(_exam, ended) if not exam.is_decided]
        soon = [wait for wait in early if wait <= _WORTH_WAITING]
        if soon:
            self._clock.wait(max(soon))
            now = self._clock.now()
            ended = self._settled(ended, now)
        self._store.make_durable(ended, now)
        settled = {history.pk: history.fold() for history in ended}
        return [settled.get(pk) or ExamNotFound() for pk in pks]

    def sweep(self) -> bool:
        """Settles what is overdue and finishes what crashes left. True: there was more than one batch can do."""
        now = self._clock.now()
        self._store.finish_stale_writes(now)
        overdue, looked_at = self._store.sweep(now - self._margin, SWEEP_BATCH)
        for begin in range(0, len(overdue), SETTLED_TOGETHER):
            self._settled(overdue[begin : begin + SETTLED_TOGETHER], now)
        return looked_at == SWEEP_BATCH

    def _verdict(self, result: Result, history: History, now: datetime) -> Exam | InvigilError | Ended:
        """The answer to a result, or the event that must be appended before there is one."""
        exam = history.fold()
        if exam is None:
            return ExamNotFound()
        if exam.is_decided:
            return _answer(exam, result)
        if result.received_at < exam.deadline_at:
            return Ended(status=result.status, ended_at=result.received_at, recorded_at=now, reason=None)
        if exam.is_overdue(now, self._margin):
            return absence(exam, now)
        return ExamConflict(exam, "the result came after the deadline")

    def _append(self, appends: Sequence[tuple[History, Ended]]) -> list[History | None]:
        """Each history with its new end, or None where somebody else appended first."""
        if not appends:
            return []
        won = self._store.append([(_exam(history), event) for history, event in appends])
        ended = [
            History(history.pk, [*history.events, event]) if is_ours else None
            for (history, event), is_ours in zip(appends, won, strict=True)
        ]
        exams = [_exam(history) for history in ended if history is not None]
        self._alarm.cancel([exam for exam in exams if exam.status is not Status.ABSENT])
        return ended

    def _settled(self, histories: Sequence[History], now: datetime) -> Sequence[History]:
        """The same exams, the overdue ones ended: by us, or by whoever was first."""
        overdue = [h for h in histories if _exam(h).is_overdue(now, self._margin)]
        ended = self._append([(history, absence(_exam(history), now)) for history in overdue])
        current = {
            history.pk: history_now or self._store.read([history.pk])[0]
            for history, history_now in zip(overdue, ended, strict=True)
        }
        return [current.get(history.pk, history) for history in histories]

    def _current(self, pk: str) -> History:
        now = self._clock.now()
        (history,) = self._store.read([pk])
        if history.fold() is None:
            raise ExamNotFound()
        (settled,) = self._settled([history], now)
        self._store.make_durable([settled], now)
        return settled

    def _fits(self, history: History, status: Status | None, now: datetime) -> bool:
        """Whether it belongs in a list of this status; one that is overdue counts as `absent`."""
        exam = history.fold()
        if exam is None:
            return False
        return status in (None, Status.ABSENT if exam.is_overdue(now, self._margin) else exam.status)


def _started(start: Start, at: datetime, now: datetime) -> Started:
    return Started(
        recorded_at=now,
        candidate=start.candidate,
        title=start.title,
        started_at=at,
        deadline_at=at + start.duration,
    )


def _answer(exam: Exam, result: Result) -> Exam | InvigilError:
    if exam.status is result.status:
        return exam
    return ExamConflict(exam, f"the exam has ended already: {exam.status}")


def _exam(history: History) -> Exam:
    exam = history.fold()
    if exam is None:
        raise ExamNotFound()
    return exam
