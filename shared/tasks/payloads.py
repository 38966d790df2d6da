"""Arguments and results too large for Redis, as files; the task carries a reference instead (a claim check).

    payloads/<2 hex>/<task id>.<role>.<nonce>     JSON; the folder follows from the task id

The name without its folder is the reference. Each is written once, under a name that nobody has used before: a run
that was given up for lost cannot replace the result of the one that counts, and whoever removes what an earlier task
of the same id has left takes nothing from a later one. A failed task that is sent again shares its arguments with the
new one: one file of two names. What a crash leaves between keeping a payload and sending its
task, `clear` removes.
"""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from shared.broker.record import check
from shared.errors import FieldError, InvalidInput, PayloadMissing
from shared.exams.disk import Disk, OpenFile
from shared.tasks.ids import TASK_ID, TASK_ID_IS, is_task_id

PAYLOAD_BYTES = 64 * 1024 * 1024
ORPHANED_AFTER = timedelta(hours=1)  # sending a task, or ending it, takes seconds once its payload is kept
ASKED_TOGETHER = 500
CLEARED_TOGETHER = 1_000  # files removed by a call of clear; of the largest ones, about a second's work

Role = Literal["args", "result"]

_REFERENCE = re.compile(rf"({TASK_ID.pattern})\.(?:args|result)\.[0-9a-f]{{16}}")


def encode(field: str, value: object) -> bytes:
    """JSON of a value. Raises InvalidInput, naming the field, for what would not arrive as it is or is too large."""
    check(field, value)
    packed = msgspec.json.encode(value)
    if len(packed) > PAYLOAD_BYTES:
        raise InvalidInput(FieldError(field, f"takes {len(packed)} bytes; at most {PAYLOAD_BYTES} are sent"))
    return packed


def decode(packed: bytes) -> Any:
    return msgspec.json.decode(packed)


class Payloads:
    """Payloads on `disk`. Each call raises StoreUnavailable where the disk cannot be read or written."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def prepare(self) -> None:
        self._disk.make_folder("payloads")

    def keep(self, task_id: str, role: Role, packed: bytes) -> str:
        """The reference to it; it is on disk when this returns. Raises InvalidInput for an id that cannot be used."""
        reference = self._new_reference(task_id, role)
        self._disk.write_new((_path(reference), packed))
        self._disk.sync_folder(_folder(task_id))
        return reference

    def share_arguments(self, reference: str, task_id: str) -> str:
        """Another task's own reference to the same file, which takes no more room; it is on disk when this returns.
        Raises PayloadMissing.
        """
        shared = self._new_reference(task_id, "args")
        try:
            self._disk.stamp(_path(reference))  # else `clear` would find the new name as old as the other one
            self._disk.link(_path(reference), _path(shared))
        except FileNotFoundError as error:
            raise PayloadMissing(f"{reference} is gone") from error
        self._disk.sync_folder(_folder(task_id))
        return shared

    def load(self, reference: str) -> bytes:
        """Raises PayloadMissing."""
        packed = self._disk.read(_path(reference))
        if packed is None:
            raise PayloadMissing(f"{reference} is gone")
        return packed

    def open(self, reference: str) -> OpenFile:
        """For sending it on in parts. Raises PayloadMissing."""
        file = self._disk.open(_path(reference))
        if file is None:
            raise PayloadMissing(f"{reference} is gone")
        return file

    def keep_value(self, task_id: str, role: Role, value: object) -> str:
        """The reference to it. Raises InvalidInput, naming the role, for what cannot be sent or is too large."""
        return self.keep(task_id, role, encode(role, value))

    def load_value(self, reference: str) -> Any:
        """Raises PayloadMissing."""
        return decode(self.load(reference))

    def references(self, task_id: str) -> list[str]:
        """All that is kept for a task, in no order."""
        if not is_task_id(task_id):
            return []
        return [name for name in self._disk.names(_folder(task_id)) if _task_id(name) == task_id]

    def remove(self, *references: str) -> None:
        """Those that are there."""
        for reference in references:
            self._disk.remove(_path(reference))

    def clear(self, is_known: Callable[[Sequence[str]], Sequence[bool]], now: datetime) -> bool:
        """Removes what is older than an hour and of no task that `is_known`. True: there may be more than one call
        removes.
        """
        removed = 0
        for name in self._disk.names("payloads"):
            old = self._older_than(ORPHANED_AFTER, f"payloads/{name}", now)
            for begin in range(0, len(old), ASKED_TOGETHER):
                asked = old[begin : begin + ASKED_TOGETHER]
                known = is_known([_task_id(reference) for reference in asked])
                orphans = [reference for reference, is_its in zip(asked, known, strict=True) if not is_its]
                self.remove(*orphans)
                removed += len(orphans)
                if removed >= CLEARED_TOGETHER:
                    return True
        return False

    def _new_reference(self, task_id: str, role: Role) -> str:
        if not is_task_id(task_id):
            raise InvalidInput(FieldError("task_id", f"must be {TASK_ID_IS}"))
        self._disk.make_folder(_folder(task_id))
        return f"{task_id}.{role}.{os.urandom(8).hex()}"

    def _older_than(self, limit: timedelta, folder: str, now: datetime) -> list[str]:
        """The references in a folder, in no order."""
        names = (name for name in self._disk.names(folder) if _REFERENCE.fullmatch(name))
        ages = ((name, self._disk.age(f"{folder}/{name}", now.timestamp())) for name in names)
        return [name for name, age in ages if age is not None and age > limit.total_seconds()]


def _folder(task_id: str) -> str:
    return f"payloads/{hashlib.sha256(task_id.encode()).hexdigest()[:2]}"


def _task_id(reference: str) -> str:
    """Empty for what is no reference."""
    match = _REFERENCE.fullmatch(reference)
    return match[1] if match else ""


def _path(reference: str) -> str:
    """Raises PayloadMissing for what is no reference: it comes from a message, and no message may name other files."""
    if not (task_id := _task_id(reference)):
        raise PayloadMissing("this is no reference to a payload")
    return f"{_folder(task_id)}/{reference}"
