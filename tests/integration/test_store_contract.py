"""What every record store must do, whatever it is made of. A store passes when each test here does."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from shared.clock import MILLISECOND
from shared.errors import ExamConflict, ExamNotFound
from shared.exams.digest_files import FileDigestStore
from shared.exams.files import FileExamStore
from shared.exams.model import Ended, Exam, History, Started, Status
from shared.exams.pk import new_pk
from shared.exams.register import SWEEP_BATCH, ExamRegister, ListQuery
from shared.exams.store import DigestStore, ExamStore, Scan
from tests.support.clock import NOON, ManualClock
from tests.support.disk import WatchedDisk, quick_folder
from tests.support.exam_files import AlarmLog, a_result, a_start, listed, present, started

ALL = 1_000_000
OUTCOMES = [Status.PASS, Status.FAIL]
MARGIN = timedelta(seconds=1)


class Stores(NamedTuple):
    """An empty store, both sides of it."""

    exams: ExamStore
    digests: DigestStore


def open_files(root: Path) -> Stores:
    disk = WatchedDisk(root)
    exams = FileExamStore(disk)
    exams.prepare()
    digests = FileDigestStore(disk, exams)
    digests.prepare()
    return Stores(exams, digests)


@pytest.fixture(params=["files"])
def open_stores() -> Callable[[Path], Stores]:
    """Opens an empty store, given an empty folder that it may use."""
    return open_files


@pytest.fixture
def stores(open_stores: Callable[[Path], Stores], tmp_path: Path) -> Stores:
    return open_stores(tmp_path)


def start_event(at: datetime = NOON, seconds: int = 120, candidate: str | None = None) -> Started:
    deadline_at = at + timedelta(seconds=seconds)
    return Started(recorded_at=at, candidate=candidate, title="Algebra", started_at=at, deadline_at=deadline_at)


def begin(store: ExamStore, event: Started) -> Exam:
    """An exam that has started."""
    pk = new_pk(event.started_at)
    assert store.start([(pk, event)]) == [True]
    return exam_of(store, pk)


def exam_of(store: ExamStore, pk: str) -> Exam:
    exam = store.read([pk])[0].fold()
    assert exam is not None
    return exam


def end(store: ExamStore, exam: Exam, status: Status = Status.PASS) -> None:
    assert store.append([(exam, outcome(exam, status))]) == [True]


def outcome(exam: Exam, status: Status) -> Ended:
    return Ended(status=status, ended_at=exam.started_at, recorded_at=exam.started_at, reason=None)


def scanned(store: ExamStore, scan: Scan) -> list[str]:
    return [history.pk for history in store.scan(scan)]


def test_what_was_started_is_read_back(stores: Stores) -> None:
    """Event 1 is the start, to the letter."""
    pk, event = new_pk(NOON), start_event(candidate="Zoë / ../\x00")
    assert stores.exams.start([(pk, event)]) == [True]
    assert stores.exams.read([pk]) == [History(pk, [event])]


def test_a_pk_never_used_has_no_events(stores: Stores) -> None:
    """Reading keeps the order asked for, known or not."""
    known, unknown = begin(stores.exams, start_event()).pk, new_pk(NOON)
    assert [len(history.events) for history in stores.exams.read([unknown, known, unknown])] == [0, 1, 0]


def test_a_pk_starts_once(stores: Stores) -> None:
    """The second start of a pk is refused and leaves the first as it is."""
    pk = new_pk(NOON)
    first, second = start_event(candidate="ada"), start_event(candidate="bob")
    assert stores.exams.start([(pk, first)]) == [True]
    assert stores.exams.start([(pk, second)]) == [False]
    assert stores.exams.read([pk]) == [History(pk, [first])]


def test_an_event_number_is_taken_once(stores: Stores) -> None:
    """Two who saw the same exam both append: the first has decided."""
    exam = begin(stores.exams, start_event())
    assert stores.exams.append([(exam, outcome(exam, Status.FAIL))]) == [True]
    assert stores.exams.append([(exam, outcome(exam, Status.PASS))]) == [False]
    assert exam_of(stores.exams, exam.pk).status is Status.FAIL


def test_each_of_a_batch_succeeds_or_fails_for_itself(stores: Stores) -> None:
    """One lost race costs the others of the batch nothing."""
    first, second = begin(stores.exams, start_event()), begin(stores.exams, start_event())
    batch = [
        (first, outcome(first, Status.PASS)),
        (first, outcome(first, Status.FAIL)),
        (second, outcome(second, Status.FAIL)),
    ]
    assert stores.exams.append(batch) == [True, False, True]
    ended = [exam_of(stores.exams, exam.pk).status for exam in (first, second)]
    assert ended == [Status.PASS, Status.FAIL]


def test_empty_batches_are_answered(stores: Stores) -> None:
    """Nothing to do is nothing done."""
    assert stores.exams.start([]) == []
    assert stores.exams.append([]) == []
    assert stores.exams.read([]) == []
    stores.exams.make_durable([], NOON)
    assert scanned(stores.exams, Scan()) == []


def test_making_durable_takes_any_history(stores: Stores) -> None:
    """Young, old, ended and unknown ones."""
    running, ended = begin(stores.exams, start_event()), begin(stores.exams, start_event())
    end(stores.exams, ended)
    histories = stores.exams.read([running.pk, ended.pk, new_pk(NOON)])
    stores.exams.make_durable(histories, NOON)
    stores.exams.make_durable(histories, NOON + timedelta(days=400))
    assert stores.exams.read([history.pk for history in histories]) == histories


def test_a_scan_walks_from_the_newest_to_the_oldest(stores: Stores) -> None:
    """Across milliseconds, minutes, days and years."""
    apart = [timedelta(), MILLISECOND, timedelta(minutes=1), timedelta(days=1), timedelta(days=400)]
    pks = [begin(stores.exams, start_event(NOON + later)).pk for later in apart]
    assert scanned(stores.exams, Scan()) == pks[::-1]


def test_a_scan_keeps_to_its_bounds(stores: Stores) -> None:
    """`started_from` is in, `started_to` and `before` are out."""
    instants = [NOON + n * MILLISECOND for n in range(4)] + [NOON + timedelta(hours=1)]
    pks = [begin(stores.exams, start_event(at)).pk for at in instants]
    assert scanned(stores.exams, Scan(started_from=instants[1])) == pks[:0:-1]
    assert scanned(stores.exams, Scan(started_to=instants[3])) == pks[2::-1]
    assert scanned(stores.exams, Scan(started_from=instants[1], started_to=instants[3])) == pks[2:0:-1]
    assert scanned(stores.exams, Scan(before=pks[2])) == pks[1::-1]
    assert scanned(stores.exams, Scan(before=pks[2], started_to=instants[1])) == pks[:1]
    assert scanned(stores.exams, Scan(started_from=NOON + timedelta(days=1))) == []
    assert scanned(stores.exams, Scan(started_to=datetime.min.replace(tzinfo=NOON.tzinfo))) == []


def test_a_scan_of_a_candidate_gives_theirs_alone(stores: Stores) -> None:
    """By the exact name, within the same bounds."""
    names = ["ada", "bob", "Ada", "ada", None]
    exams = [begin(stores.exams, start_event(NOON + n * MILLISECOND, candidate=name)) for n, name in enumerate(names)]
    assert scanned(stores.exams, Scan(candidate="ada")) == [exams[3].pk, exams[0].pk]
    assert scanned(stores.exams, Scan(candidate="ada", before=exams[3].pk)) == [exams[0].pk]
    assert scanned(stores.exams, Scan(candidate="ada", started_from=exams[1].started_at)) == [exams[3].pk]
    assert scanned(stores.exams, Scan(candidate="nobody")) == []


def test_a_scan_of_the_running_misses_none(stores: Stores) -> None:
    """It may give ended ones too, and keeps order and bounds."""
    exams = [begin(stores.exams, start_event(NOON + n * MILLISECOND)) for n in range(4)]
    end(stores.exams, exams[1])
    running = [exams[3].pk, exams[2].pk, exams[0].pk]
    walked = scanned(stores.exams, Scan(running_only=True))
    assert [pk for pk in walked if pk in running] == running
    assert walked == sorted(walked, reverse=True)
    assert exams[3].pk not in scanned(stores.exams, Scan(running_only=True, before=exams[3].pk))


def test_a_sweep_finds_what_is_due_to_the_millisecond(stores: Stores) -> None:
    """A deadline at the very instant counts; a millisecond later does not."""
    at_once, later = begin(stores.exams, start_event()), begin(stores.exams, start_event(NOON + MILLISECOND))
    before, now = at_once.deadline_at - MILLISECOND, at_once.deadline_at
    assert stores.exams.sweep(before, 10) == ([], 0)
    due, looked_at = stores.exams.sweep(now, 10)
    assert ([history.pk for history in due], looked_at) == ([at_once.pk], 1)
    due, looked_at = stores.exams.sweep(later.deadline_at, 10)
    assert ([history.pk for history in due], looked_at) == ([at_once.pk, later.pk], 2)


def test_a_sweep_looks_at_no_more_than_its_limit_oldest_first(stores: Stores) -> None:
    """So that a long outage is worked off in pieces."""
    exams = [begin(stores.exams, start_event(seconds=seconds)) for seconds in (300, 60, 61, 200)]
    due, looked_at = stores.exams.sweep(NOON + timedelta(days=1), 3)
    assert [history.pk for history in due] == [exams[1].pk, exams[2].pk, exams[3].pk]
    assert looked_at == 3


def test_a_sweep_passes_over_what_has_ended(stores: Stores) -> None:
    """An ended exam is not due, however old its deadline."""
    exam = begin(stores.exams, start_event())
    end(stores.exams, exam)
    assert stores.exams.sweep(NOON + timedelta(days=1), 10)[0] == []


def test_a_writable_store_says_so_and_keeps_nothing(stores: Stores) -> None:
    """The check leaves no exam behind."""
    stores.exams.check_writable()
    assert scanned(stores.exams, Scan()) == []


def test_stale_writes_of_nobody_are_nothing_to_finish(stores: Stores) -> None:
    """Finishing changes no exam whose writer did all its work."""
    running, ended = begin(stores.exams, start_event()), begin(stores.exams, start_event())
    end(stores.exams, ended)
    before = stores.exams.read([running.pk, ended.pk])
    stores.exams.finish_stale_writes(present().now() + timedelta(days=1))
    assert stores.exams.read([running.pk, ended.pk]) == before


def test_a_digest_takes_each_outcome_once(stores: Stores) -> None:
    """Up to the limit, oldest first; the next window gets the rest; asked again, each gives the same."""
    exams = [begin(stores.exams, start_event(NOON + n * MILLISECOND)) for n in range(3)]
    for exam in exams:
        end(stores.exams, exam)
    begin(stores.exams, start_event())
    first = stores.digests.collect("1", 2)
    second = stores.digests.collect("2", 2)
    assert [history.pk for history in first] == [exam.pk for exam in exams[:2]]
    assert [history.pk for history in second] == [exams[2].pk]
    assert stores.digests.collect("1", ALL) == first
    assert stores.digests.collect("2", ALL) == second
    assert stores.digests.collect("3", ALL) == []


def test_a_window_once_empty_stays_empty(stores: Stores) -> None:
    """What ends afterwards belongs to the next window, or the same mail would differ when sent again."""
    assert stores.digests.collect("1", ALL) == []
    exam = begin(stores.exams, start_event())
    end(stores.exams, exam)
    assert stores.digests.collect("1", ALL) == []
    assert [history.pk for history in stores.digests.collect("2", ALL)] == [exam.pk]


def test_a_window_is_unsent_from_its_first_collect_until_closed(stores: Stores) -> None:
    """Oldest first; closing twice is closing."""
    assert stores.digests.unsent() == []
    stores.digests.collect("20261120T120500.000Z", ALL)
    stores.digests.collect("20261120T120000.000Z", ALL)
    assert stores.digests.unsent() == ["20261120T120000.000Z", "20261120T120500.000Z"]
    stores.digests.close("20261120T120000.000Z")
    stores.digests.close("20261120T120000.000Z")
    assert stores.digests.unsent() == ["20261120T120500.000Z"]


def test_who_was_served_is_noted_window_by_window(stores: Stores) -> None:
    """A note twice is one note; other windows and recipients know nothing of it."""
    recipients = ["ada@example.org", "bob@example.org"]
    stores.digests.note_served("1", "ada@example.org")
    stores.digests.note_served("1", "ada@example.org")
    assert stores.digests.recipients_served("1", recipients) == {"ada@example.org"}
    assert stores.digests.recipients_served("2", recipients) == set()


# the register on top of it


def test_the_alarm_is_set_for_starts_and_cancelled_for_results(stores: Stores, clock: ManualClock) -> None:
    """An exam that ends absent cancels nothing: its alarm is what rang, or is about to."""
    alarm = AlarmLog()
    register = ExamRegister(stores.exams, alarm, clock, timedelta())
    first, second = started(register, a_start(), a_start())
    register.record_results([a_result(first.pk, clock.now())])
    clock.set(second.deadline_at)
    assert register.read(second.pk).status is Status.ABSENT
    assert (alarm.was_set, alarm.cancelled) == ([first.pk, second.pk], [first.pk])


def test_two_results_in_one_batch_are_one_outcome(stores: Stores, clock: ManualClock) -> None:
    """The first stands, the same again is confirmed, another is told of the first."""
    register = ExamRegister(stores.exams, AlarmLog(), clock, timedelta())
    (exam,) = started(register, a_start())
    batch = [a_result(exam.pk, clock.now(), status) for status in (Status.FAIL, Status.PASS, Status.FAIL)]
    first, other, same = register.record_results(batch)
    assert isinstance(first, Exam)
    assert isinstance(other, ExamConflict)
    assert same == first == other.exam
    assert first.status is Status.FAIL


@pytest.mark.parametrize("early_ms", [1, 500, 2000])
def test_a_deadline_task_up_to_two_seconds_early_waits(stores: Stores, clock: ManualClock, early_ms: int) -> None:
    """It settles the exam at deadline and margin, not before, and never leaves it undecided."""
    register = ExamRegister(stores.exams, AlarmLog(), clock, MARGIN)
    (exam,) = started(register, a_start())
    clock.set(exam.deadline_at + MARGIN - early_ms * MILLISECOND)
    (ended,) = register.settle([exam.pk])
    assert isinstance(ended, Exam)
    assert (ended.status, ended.recorded_at) == (Status.ABSENT, exam.deadline_at + MARGIN)
    assert clock.waits == [early_ms * MILLISECOND]


def test_a_deadline_task_far_too_early_gives_the_exam_back_undecided(stores: Stores, clock: ManualClock) -> None:
    """Its caller has to set the alarm anew."""
    register = ExamRegister(stores.exams, AlarmLog(), clock, timedelta())
    (exam,) = started(register, a_start())
    assert register.settle([exam.pk]) == [exam]
    assert clock.waits == []


def test_deadlines_settled_together_are_answered_in_their_order(stores: Stores, clock: ManualClock) -> None:
    """Each with its exam, one that there is none of with that; an exam named twice ends once."""
    register = ExamRegister(stores.exams, AlarmLog(), clock, timedelta())
    first, second = started(register, a_start(seconds=60), a_start(seconds=90))
    register.record_results([a_result(second.pk, clock.now())])
    clock.move(seconds=60)
    absent, unknown, again, passed = register.settle([first.pk, new_pk(clock.now()), first.pk, second.pk])
    assert isinstance(unknown, ExamNotFound)
    assert isinstance(absent, Exam)
    assert (absent.status, absent.ended_at, again) == (Status.ABSENT, first.deadline_at, absent)
    assert passed == exam_of(stores.exams, second.pk)
    assert len(register.events(first.pk)) == 2


def test_a_result_that_comes_while_a_deadline_is_waited_for_stands(stores: Stores, clock: ManualClock) -> None:
    """It is recorded between the look at the exam and its end."""
    register = ExamRegister(stores.exams, AlarmLog(), clock, timedelta())
    (exam,) = started(register, a_start())
    answers: list[object] = []

    class Interrupted(ManualClock):
        def wait(self, duration: timedelta) -> None:
            answers.extend(register.record_results([a_result(exam.pk, clock.now())]))
            super().wait(duration)

    early = Interrupted(exam.deadline_at - timedelta(seconds=1))
    settled = ExamRegister(stores.exams, AlarmLog(), early, timedelta()).settle([exam.pk])
    assert settled == answers == [exam_of(stores.exams, exam.pk)]
    assert exam_of(stores.exams, exam.pk).status is Status.PASS


def test_a_sweep_says_whether_there_is_more(stores: Stores, clock: ManualClock) -> None:
    """After an outage thousands may be overdue; each sweep does a batch and is called again."""
    register = ExamRegister(stores.exams, AlarmLog(), clock, timedelta())
    exams = started(register, *[a_start(seconds=1)] * (SWEEP_BATCH + 1))
    clock.move(seconds=1)
    assert [register.sweep(), register.sweep()] == [True, False]
    assert {exam_of(stores.exams, exam.pk).status for exam in exams} == {Status.ABSENT}


class Sitting:
    """What the model knows of one exam."""

    def __init__(self, exam: Exam) -> None:
        self.pk = exam.pk
        self.candidate = exam.candidate
        self.started_at = exam.started_at
        self.deadline_at = exam.deadline_at
        self.status = Status.STARTED

    def is_overdue(self, now: datetime) -> bool:
        return self.status is Status.STARTED and now >= self.deadline_at + MARGIN

    def settle(self, now: datetime) -> None:
        if self.is_overdue(now):
            self.status = Status.ABSENT

    def fits(self, query: ListQuery, now: datetime) -> bool:
        status = Status.ABSENT if self.is_overdue(now) else self.status
        return (
            query.status in (None, status)
            and query.candidate in (None, self.candidate)
            and (query.started_from is None or query.started_from <= self.started_at)
            and (query.started_to is None or self.started_at < query.started_to)
        )


class ExamsOverTime(RuleBasedStateMachine):
    """Any order of starts, results, time, reads, lists, sweeps and digests, against a model of a few lines."""

    def __init__(self, open_stores: Callable[[Path], Stores]) -> None:
        super().__init__()
        self._folder = quick_folder()
        self._stores = open_stores(Path(self._folder.name))
        self._clock = present()
        self._register = ExamRegister(self._stores.exams, AlarmLog(), self._clock, MARGIN)
        self._sittings: list[Sitting] = []
        self._windows: dict[str, list[str]] = {}

    @rule(
        candidates=st.lists(st.sampled_from([None, "ada", "bob"]), min_size=1, max_size=3),
        seconds=st.sampled_from([1, 2.5, 60, 3600]),
    )
    def start(self, candidates: list[str | None], seconds: float) -> None:
        exams = started(self._register, *(a_start(candidate, seconds) for candidate in candidates))
        assert [exam.candidate for exam in exams] == candidates
        assert all(exam.deadline_at == self._clock.now() + timedelta(seconds=seconds) for exam in exams)
        self._sittings += [Sitting(exam) for exam in exams]

    @rule(milliseconds=st.sampled_from([1, 500, 1000, 1500, 60_000, 3_600_000]))
    def time_passes(self, milliseconds: int) -> None:
        self._clock.move(milliseconds=milliseconds)

    @precondition(lambda self: self._sittings)
    @rule(
        which=st.lists(st.integers(0, 50), min_size=1, max_size=3),
        status=st.sampled_from(OUTCOMES),
        waited_ms=st.sampled_from([0, 1, 2000]),
    )
    def results(self, which: list[int], status: Status, waited_ms: int) -> None:
        """Some of them have waited since they were received."""
        now = self._clock.now()
        received_at = now - waited_ms * MILLISECOND
        sittings = [self._sittings[index % len(self._sittings)] for index in which]
        answers = self._register.record_results([a_result(sitting.pk, received_at, status) for sitting in sittings])
        for sitting in sittings:
            if sitting.status is Status.STARTED and received_at < sitting.deadline_at:
                sitting.status = status
            sitting.settle(now)
        for sitting, answer in zip(sittings, answers, strict=True):
            exam = answer.exam if isinstance(answer, ExamConflict) else answer
            assert isinstance(exam, Exam)
            assert exam.status is sitting.status
            assert isinstance(answer, ExamConflict) == (sitting.status is not status)

    @precondition(lambda self: self._sittings)
    @rule(which=st.lists(st.integers(0, 50), min_size=1, max_size=4))
    def deadlines(self, which: list[int]) -> None:
        """Their tasks come together, whenever; time passes where one is a little early."""
        sittings = [self._sittings[index % len(self._sittings)] for index in which]
        exams = self._register.settle([sitting.pk for sitting in sittings])
        for sitting, exam in zip(sittings, exams, strict=True):
            sitting.settle(self._clock.now())
            assert isinstance(exam, Exam)
            assert (exam.pk, exam.status) == (sitting.pk, sitting.status)

    @rule(status=st.sampled_from(OUTCOMES))
    def result_of_nobody(self, status: Status) -> None:
        now = self._clock.now()
        (answer,) = self._register.record_results([a_result(new_pk(now), now, status)])
        assert isinstance(answer, ExamNotFound)

    @precondition(lambda self: self._sittings)
    @rule(which=st.integers(0, 50))
    def read(self, which: int) -> None:
        sitting = self._sittings[which % len(self._sittings)]
        sitting.settle(self._clock.now())
        exam = self._register.read(sitting.pk)
        assert exam.status is sitting.status
        assert exam.ended_at == (sitting.deadline_at if exam.status is Status.ABSENT else exam.ended_at)
        assert len(self._register.events(sitting.pk)) == (1 if exam.status is Status.STARTED else 2)

    @rule(
        status=st.sampled_from([None, *Status]),
        candidate=st.sampled_from([None, "ada", "bob"]),
        bounds=st.tuples(*[st.none() | st.tuples(st.integers(0, 50), st.sampled_from([0, 1]))] * 2),
        limit=st.sampled_from([1, 2, 50]),
    )
    def list_all(
        self,
        status: Status | None,
        candidate: str | None,
        bounds: tuple[tuple[int, int] | None, tuple[int, int] | None],
        limit: int,
    ) -> None:
        """Every page of it: each exam that fits once, newest first, overdue ones as absent."""
        since, until = (self._instant(bound) for bound in bounds)
        query = ListQuery(status=status, candidate=candidate, started_from=since, started_to=until, limit=limit)
        now = self._clock.now()
        fitting = [sitting for sitting in self._sittings if sitting.fits(query, now)]
        for sitting in fitting:
            sitting.settle(now)
        expected = sorted(((sitting.pk, sitting.status) for sitting in fitting), reverse=True)
        assert [(exam.pk, exam.status) for exam in listed(self._register, query)] == expected

    def _instant(self, bound: tuple[int, int] | None) -> datetime | None:
        """The start of some exam, or the millisecond after."""
        if bound is None or not self._sittings:
            return None
        which, later_ms = bound
        return self._sittings[which % len(self._sittings)].started_at + later_ms * MILLISECOND

    @rule()
    def sweep(self) -> None:
        assert self._register.sweep() is False
        for sitting in self._sittings:
            sitting.settle(self._clock.now())

    @rule(limit=st.sampled_from([1, 2, ALL]))
    def digest(self, limit: int) -> None:
        window = f"{len(self._windows):04}"
        waiting = self._waiting()
        pks = [history.pk for history in self._stores.digests.collect(window, limit)]
        assert pks == sorted(pks)
        assert len(pks) == min(limit, len(waiting))
        assert set(pks) <= waiting
        self._windows[window] = pks

    @precondition(lambda self: self._windows)
    @rule(which=st.integers(0, 50))
    def digest_again(self, which: int) -> None:
        window = f"{which % len(self._windows):04}"
        assert [history.pk for history in self._stores.digests.collect(window, ALL)] == self._windows[window]
        self._stores.digests.close(window)
        assert window not in self._stores.digests.unsent()

    def _waiting(self) -> set[str]:
        """Outcomes in no window yet."""
        sent = {pk for pks in self._windows.values() for pk in pks}
        return {sitting.pk for sitting in self._sittings if sitting.status is not Status.STARTED} - sent

    @invariant()
    def every_exam_is_as_the_model_says(self) -> None:
        """Read from the events themselves, so that looking settles nothing."""
        histories = self._stores.exams.read([sitting.pk for sitting in self._sittings])
        for sitting, history in zip(self._sittings, histories, strict=True):
            exam = history.fold()
            assert exam is not None
            assert exam.status is sitting.status
            assert len(history.events) == (1 if exam.status is Status.STARTED else 2)
            if exam.status is Status.ABSENT:
                assert exam.recorded_at is not None
                assert exam.recorded_at >= exam.deadline_at + MARGIN

    def teardown(self) -> None:
        """In the end every exam has its one outcome, in one digest."""
        self._clock.move(days=1)
        self.sweep()
        self.digest(ALL)
        assert self._waiting() == set()
        sent = sorted(pk for pks in self._windows.values() for pk in pks)
        assert sent == sorted(sitting.pk for sitting in self._sittings)
        self._folder.cleanup()


def test_any_course_of_events_ends_every_exam_once(open_stores: Callable[[Path], Stores]) -> None:
    """Exactly one outcome, never absent early, a result in time wins, each outcome in one digest, lists exact."""

    class OnThisStore(ExamsOverTime):
        def __init__(self) -> None:
            super().__init__(open_stores)

    run_state_machine_as_test(
        OnThisStore,
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
