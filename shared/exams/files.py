"""The exam store on a file system: several processes and containers on one volume use it at once, without locks.

    exams/YYYY/MM/DD/HHMM/<pk>.<n>      event n; the folder follows from the pk
    open/<minute>/<deadline_ms>-<pk>    marker of a running exam, in the folder of its deadline's minute
    candidates/<3 hex>/<sha256>-<pk>    an exam of this candidate
    outbox/<pk>.<n>                     an outcome that is in no digest yet (digest_files.py goes on from there)
    tmp/<pk>.<n>.<nonce>                an event being written; left behind, it tells what its writer was doing

All of one exam's names are links to one file where they can be, so a name costs no inode. A marker is a hint;
the events decide. docs/design.md follows each write step by step and says what a crash between two steps leaves.
"""

import hashlib
import heapq
import os
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import count

import structlog

from shared.clock import from_ms, to_ms
from shared.errors import StoreDamaged, StoreUnavailable
from shared.exams.disk import Disk
from shared.exams.event_json import decode, encode
from shared.exams.model import Event, Exam, History, Started, Void
from shared.exams.pk import first_pk_of
from shared.exams.store import Scan

STALE_AFTER = timedelta(seconds=10)  # a write takes milliseconds; a temp file this old has lost its writer
SETTLED_AFTER = timedelta(seconds=60)  # an event this old was synced by its writer, or finished by a sweep, long ago
_MARKERS_LISTED = 20_000  # listing this many markers takes about as long as reading 2,000 records

_AFTER_ALL = "g"  # sorts after every hexadecimal text, and after "exams"

_MARKER_NAME = re.compile(r"(\d+)-([0-9a-f-]{36})")
_TEMP_NAME = re.compile(r"([0-9a-f-]{36})\.(\d+)\.[0-9a-f]{16}")

_log = structlog.get_logger(__name__)


class FileExamStore:
    """ExamStore on `disk`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._writer = int.from_bytes(os.urandom(4), "big")
        self._writes = count()

    def prepare(self) -> None:
        """Makes the folders. Raises StoreUnavailable on a file system that cannot keep the promises."""
        for folder in ("exams", "open", "candidates", "outbox", "tmp"):
            self._disk.make_folder(folder)
        self._prove_file_system()

    def start(self, starts: Sequence[tuple[str, Started]]) -> list[bool]:
        temps = self._write_temps([(pk, 1, event) for pk, event in starts])
        markers = [_marker(pk, event.deadline_at) for pk, event in starts]
        for temp, marker in zip(temps, markers, strict=True):
            self._link(temp, marker)
        self._sync_folders_of(markers)
        won = self._link_events(temps, [(pk, 1) for pk, _ in starts])
        for (pk, event), is_ours in zip(starts, won, strict=True):
            if is_ours:
                self._link_candidate(pk, event)
        self._sync_folders_of(event_path(pk, 1) for pk, _ in starts)
        self._remove_all(temps)
        return won

    def append(self, appends: Sequence[tuple[Exam, Event]]) -> list[bool]:
        numbers = [(exam.pk, exam.version + 1) for exam, _ in appends]
        temps = self._write_temps([(pk, n, event) for (pk, n), (_, event) in zip(numbers, appends, strict=True)])
        won = self._link_events(temps, numbers)
        self._sync_folders_of(event_path(pk, n) for pk, n in numbers)
        for (exam, _), (_, n), is_ours in zip(appends, numbers, won, strict=True):
            if is_ours:
                self._file_away(exam.pk, exam.deadline_at, n)
        self._remove_all(temps)
        return won

    def read(self, pks: Sequence[str]) -> list[History]:
        return [self._history(pk) for pk in pks]

    def read_if_whole(self, pk: str) -> History | None:
        """None, and an error in the log, for a record that is damaged: it must not hold all others up."""
        try:
            return self._history(pk)
        except StoreDamaged as error:
            _log.error("record_damaged", why=str(error))
            return None

    def make_durable(self, histories: Sequence[History], now: datetime) -> None:
        young = now - SETTLED_AFTER
        recent = (h.pk for h in histories if any(event.recorded_at > young for event in h.events))
        self._sync_folders_of(event_path(pk, 1) for pk in recent)

    def scan(self, scan: Scan) -> Iterator[History]:
        for pk in self._pks(scan):
            history = self.read_if_whole(pk)
            if history is not None and history.events:
                yield history

    def sweep(self, until: datetime, limit: int) -> tuple[list[History], int]:
        overdue: list[History] = []
        looked_at = 0
        for deadline_ms, pk in self._due_markers(until, limit):
            history = self.read_if_whole(pk)
            if history is None:
                continue
            looked_at += 1
            exam = history.fold()
            if exam is None:
                self._void(pk, history, deadline_ms, until)
            elif exam.is_decided:
                self._sync_folders_of([event_path(pk, exam.version)])  # its writer may not have come to that
                self._file_away(pk, from_ms(deadline_ms), exam.version)
            else:
                overdue.append(history)
        return overdue, looked_at

    def finish_stale_writes(self, now: datetime) -> None:
        for name in self._disk.names("tmp"):
            age = self._disk.age(f"tmp/{name}", now.timestamp())
            if age is None or age < STALE_AFTER.total_seconds():
                continue
            if match := _TEMP_NAME.fullmatch(name):
                try:
                    self._finish(match[1], int(match[2]))
                except StoreDamaged as error:
                    _log.error("record_damaged", why=str(error))
                    continue
            self._disk.remove(f"tmp/{name}")

    def check_writable(self) -> None:
        probe = f"tmp/probe.{self._nonce()}"
        self._disk.write_new((probe, b"x" * 4096))  # a full disk may still take an empty file
        self._disk.remove(probe)

    # writing

    def _write_temps(self, events: Sequence[tuple[str, int, Event]]) -> list[str]:
        files = [(f"tmp/{pk}.{n}.{self._nonce()}", encode(event)) for pk, n, event in events]
        self._disk.write_new(*files)
        return [path for path, _ in files]

    def _nonce(self) -> str:
        """16 hexadecimal digits that no other writer uses, a fork of this process included. Chance for each would be
        a system call more.
        """
        return f"{self._writer ^ os.getpid():08x}{next(self._writes) & 0xFFFFFFFF:08x}"

    def _link_events(self, temps: Sequence[str], numbers: Sequence[tuple[str, int]]) -> list[bool]:
        return [self._link(temp, event_path(pk, n)) for temp, (pk, n) in zip(temps, numbers, strict=True)]

    def _link(self, temp: str, target: str) -> bool:
        """Links into a folder that is made where missing. A temp file gone means that a sweep gave this write up."""
        folder = _folder_of(target)
        self._disk.make_folder(folder)
        try:
            return self._disk.link(temp, target)
        except FileNotFoundError:
            self._disk.forget_folder(folder)  # an emptied minute folder is removed
            self._disk.make_folder(folder)
        try:
            return self._disk.link(temp, target)
        except FileNotFoundError as error:
            raise StoreUnavailable("this write took so long that it was given up") from error

    def _link_candidate(self, pk: str, event: Started) -> None:
        if event.candidate is None:
            return
        target = f"{_candidate_index(event.candidate)}{pk}"
        try:
            self._disk.link(event_path(pk, 1), target)
        except FileNotFoundError:
            # Not synced: this index can be rebuilt, and the sync of the event that follows carries it along.
            self._disk.make_folder(_folder_of(target), lasting=False)
            self._disk.link(event_path(pk, 1), target)

    def _file_away(self, pk: str, deadline_at: datetime, n: int) -> None:
        """From the running to the outcomes that wait for a digest; somebody else may have done it."""
        self._disk.move(_marker(pk, deadline_at), f"outbox/{pk}.{n}")

    def _void(self, pk: str, history: History, deadline_ms: int, now: datetime) -> None:
        """A marker without a start: its writer died, or is frozen and must not succeed when it thaws."""
        if not history.events:
            (temp,) = self._write_temps([(pk, 1, Void(recorded_at=now))])
            is_void = self._link(temp, event_path(pk, 1))
            self._sync_folders_of([event_path(pk, 1)])
            self._disk.remove(temp)
            if not is_void:
                return  # it thawed in this very moment; the next sweep settles the exam
        self._disk.remove(_marker(pk, from_ms(deadline_ms)))

    def _finish(self, pk: str, n: int) -> None:
        """What the writer of event n had still to do once the event was linked. If it was not, there is nothing."""
        history = self._history(pk)
        if len(history.events) < n or not isinstance(started := history.events[0], Started):
            return
        self._sync_folders_of([event_path(pk, n)])
        if n == 1:
            self._link_candidate(pk, started)
        else:
            self._file_away(pk, started.deadline_at, n)

    def _sync_folders_of(self, paths: Iterator[str] | Sequence[str]) -> None:
        for folder in dict.fromkeys(map(_folder_of, paths)):
            self._disk.sync_folder(folder)

    def _remove_all(self, temps: Sequence[str]) -> None:
        for temp in temps:
            self._disk.remove(temp)

    # reading

    def _history(self, pk: str) -> History:
        events: list[Event] = []
        while (raw := self._disk.read(path := event_path(pk, len(events) + 1))) is not None:
            try:
                events.append(decode(raw))
            except ValueError as error:
                raise StoreDamaged(f"{path} does not hold an event: {error}") from error
        return History(pk, events)

    def _pks(self, scan: Scan) -> Iterator[str]:
        """The pks that fit, newest first."""
        low = first_pk_of(scan.started_from) if scan.started_from else ""
        ends = (scan.before, first_pk_of(scan.started_to) if scan.started_to else None)
        high = min(filter(None, ends), default=_AFTER_ALL)
        if scan.candidate is not None:
            return iter(_descending(self._pks_of(scan.candidate), low, high))
        if scan.running_only and (running := self._running(low, high)) is not None:
            return iter(running)
        return self._walk(low, high)

    def _pks_of(self, candidate: str) -> list[str]:
        index = _candidate_index(candidate)
        folder, _, mark = index.rpartition("/")
        return [name[len(mark) :] for name in self._disk.names(folder) if name.startswith(mark)]

    def _running(self, low: str, high: str) -> list[str] | None:
        """The pks with a marker; None where they are so many that walking the exams finds some as soon."""
        pks: list[str] = []
        for minute in self._disk.names("open"):
            pks += (name.partition("-")[2] for name in self._disk.names(f"open/{minute}"))
            if len(pks) > _MARKERS_LISTED:
                return None
        return _descending(pks, low, high)

    def _walk(self, low: str, high: str) -> Iterator[str]:
        first = event_path(low, 1) if low else ""
        last = event_path(high, 1) if high != _AFTER_ALL else _AFTER_ALL
        for folder in self._minutes("exams", first, last):
            names = self._disk.names(folder)
            yield from _descending((name[:-2] for name in names if name.endswith(".1")), low, high)

    def _minutes(self, folder: str, first: str, last: str) -> Iterator[str]:
        """Minute folders from `last` down to `first`, listing only what lies between."""
        depth = folder.count("/") + 1
        if depth == 5:
            yield folder
            return
        for name in sorted(self._disk.names(folder), reverse=True):
            path = f"{folder}/{name}"
            if first[: len(path)] <= path <= last[: len(path)]:
                yield from self._minutes(path, first, last)

    def _due_markers(self, until: datetime, limit: int) -> list[tuple[int, str]]:
        """The oldest markers that are due. Lists only minutes that are, and removes those that are past and empty."""
        until_ms, this_minute = to_ms(until), _minute_name(to_ms(until) // 60_000)
        due: list[tuple[int, str]] = []
        for minute in sorted(name for name in self._disk.names("open") if name <= this_minute):
            names = self._disk.names(f"open/{minute}")
            if not names and minute < this_minute:
                self._disk.remove_folder_if_empty(f"open/{minute}")
            marks = ((int(match[1]), match[2]) for name in names if (match := _MARKER_NAME.fullmatch(name)))
            due += heapq.nsmallest(limit - len(due), (mark for mark in marks if mark[0] <= until_ms))
            if len(due) >= limit:
                break
        return due

    # the boot check

    def _prove_file_system(self) -> None:
        """Tries what the store rests on: exclusive link, rename, symbolic link, fsync of a folder, one file system."""
        nonce = self._nonce()
        first, second, third = (f"tmp/probe.{nonce}.{n}" for n in "abc")
        disk = self._disk
        devices = {os.stat(f"{disk.root}/{name}").st_dev for name in ("tmp", "exams", "open", "outbox", "candidates")}
        if len(devices) > 1:
            raise StoreUnavailable(f"the folders of {disk.root} must lie on one file system")
        try:
            disk.write_new((first, b""))
            holds = (
                disk.link(first, second)
                and not disk.link(first, second)
                and disk.move(second, third)
                and disk.point("x", second)
                and not disk.point("y", second)
                and disk.pointed(second) == "x"
            )
            disk.sync_folder("tmp")
        finally:
            for path in (first, second, third):
                disk.remove(path)
        if not holds:
            raise StoreUnavailable(f"the file system of {disk.root} does not refuse to link a name twice")


def event_path(pk: str, n: int) -> str:
    return f"exams/{minute_folder(pk)}/{pk}.{n}"


def minute_folder(pk: str) -> str:
    """`YYYY/MM/DD/HHMM` of the start, which the pk carries."""
    return _minute_path(int(pk[:8] + pk[9:13], 16) // 60_000)


@lru_cache(maxsize=4096)
def _minute_path(minute: int) -> str:
    return f"{from_ms(minute * 60_000):%Y/%m/%d/%H%M}"


@lru_cache(maxsize=4096)
def _minute_name(minute: int) -> str:
    return f"{from_ms(minute * 60_000):%Y%m%dT%H%M}"


def _marker(pk: str, deadline_at: datetime) -> str:
    deadline_ms = to_ms(deadline_at)
    return f"open/{_minute_name(deadline_ms // 60_000)}/{deadline_ms}-{pk}"


def _candidate_index(candidate: str) -> str:
    """What the paths of this candidate's exams begin with. Candidates share folders: one each would cost a start as
    much as all its other writes together.
    """
    digest = hashlib.sha256(candidate.encode()).hexdigest()
    return f"candidates/{digest[:3]}/{digest}-"


def _folder_of(path: str) -> str:
    return path[: path.rindex("/")]


def _descending(pks: Iterator[str] | Sequence[str], low: str, high: str) -> list[str]:
    return sorted((pk for pk in pks if low <= pk < high), reverse=True)
