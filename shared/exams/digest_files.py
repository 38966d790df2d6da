"""Which outcome is in which digest, as files beside the exams.

    outbox/<pk>.<n>                         waits for a digest
    digests/<window>                        the outcomes that window may claim, one name a line; never changes
    digested/YYYY/MM/DD/HHMM/<pk>.<n>       symbolic link that says which window claimed it; never changes
    digests/<window>.<recipient's hash>     this recipient has been sent it
    unsent/<window>                         not yet sent to everybody

The list is fixed first and claimed name by name afterwards, so whoever goes on with a window, after whatever crash or
freeze, claims the same names for it and ends with the same content: those on its list that say its name.
"""

import hashlib
import os
from collections.abc import Sequence

from shared.errors import StoreUnavailable
from shared.exams.disk import Disk
from shared.exams.files import FileExamStore, minute_folder
from shared.exams.model import History


class FileDigestStore:
    """DigestStore on the same `disk` as `exams`."""

    def __init__(self, disk: Disk, exams: FileExamStore) -> None:
        self._disk = disk
        self._exams = exams

    def prepare(self) -> None:
        for folder in ("outbox", "digested", "digests", "unsent"):
            self._disk.make_folder(folder)

    def unsent(self) -> list[str]:
        return sorted(self._disk.names("unsent"))

    def collect(self, window: str, limit: int) -> list[History]:
        listed = self._list(window)
        if listed is None:
            listed = self._begin(window, limit)
        self._disk.sync_folder("digests")  # whoever made the list may not have come to that
        self._claim(window, listed)
        for name in listed:
            self._disk.remove(f"outbox/{name}")  # claimed now, by this window or another
        mine = [name for name in listed if self._disk.pointed(_claim_path(name)) == window]
        histories = (self._exams.read_if_whole(_pk_of(name)) for name in mine)
        return [history for history in histories if history is not None]

    def recipients_served(self, window: str, recipients: Sequence[str]) -> set[str]:
        return {who for who in recipients if self._disk.exists(_note_path(window, who))}

    def note_served(self, window: str, recipient: str) -> None:
        self._disk.point("sent", _note_path(window, recipient))
        self._disk.sync_folder("digests")

    def close(self, window: str) -> None:
        self._disk.remove(f"unsent/{window}")

    def _list(self, window: str) -> list[str] | None:
        raw = self._disk.read(f"digests/{window}")
        return None if raw is None else raw.decode().split()

    def _begin(self, window: str, limit: int) -> list[str]:
        """Notes that the window is to be sent, then fixes its list; somebody else's list for it wins."""
        self._disk.point("unsent", f"unsent/{window}")
        self._disk.sync_folder("unsent")
        names = sorted(self._disk.names("outbox"))[:limit]
        temp = f"tmp/{window}.{os.urandom(8).hex()}"
        self._disk.write_new((temp, "\n".join(names).encode()))
        try:
            self._disk.link(temp, f"digests/{window}")
        except FileNotFoundError as error:
            raise StoreUnavailable("this write took so long that it was given up") from error
        self._disk.remove(temp)
        return self._list(window) or []

    def _claim(self, window: str, listed: Sequence[str]) -> None:
        folders = dict.fromkeys(_claim_path(name).rpartition("/")[0] for name in listed)
        for folder in folders:
            self._disk.make_folder(folder)
        for name in listed:
            self._disk.point(window, _claim_path(name))
        for folder in folders:
            self._disk.sync_folder(folder)


def _pk_of(name: str) -> str:
    return name.partition(".")[0]


def _claim_path(name: str) -> str:
    return f"digested/{minute_folder(_pk_of(name))}/{name}"


def _note_path(window: str, recipient: str) -> str:
    return f"digests/{window}.{hashlib.sha256(recipient.encode()).hexdigest()[:16]}"
