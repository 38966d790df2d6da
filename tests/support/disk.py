"""Disks that tell of every system call, so that one can be failed, or its caller stopped before it."""

import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar, cast

from shared.exams.disk import Disk

P = ParamSpec("P")
T = TypeVar("T")

Watch = Callable[[Callable[..., object]], None]

WITHIN_S = 30

_MEMORY = "/dev/shm"  # Linux keeps it in memory; what makes thousands of small folders is five times faster there


def quick_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for exams that no test will cut the power of."""
    return tempfile.TemporaryDirectory(prefix="invigil-exams-", dir=_MEMORY if os.path.isdir(_MEMORY) else None)


class ProcessEnded(BaseException):
    """The process is gone: like a kill, no `except Exception` sees it."""


class WatchedDisk(Disk):
    """Tells `watch` of each system call before it is made. Leaves out fsync itself: no test cuts the power."""

    def __init__(self, root: Path, power: "Power | None" = None) -> None:
        super().__init__(str(root), self._end_process)
        self.watch: Watch | None = None
        self.halts: list[OSError] = []
        self._power = power

    def _call(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self.watch is not None:
            self.watch(call)
        # All that fsync ever gives back is None.
        answer = cast(T, None) if call is os.fsync else super()._call(call, *args, **kwargs)
        if self._power is not None:
            self._power.note(call, args, answer)
        return answer

    def _end_process(self, error: OSError) -> None:
        self.halts.append(error)
        raise ProcessEnded


class Power:
    """Knows what a power cut would take: names whose folder was not synced since they came, and files not synced."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._fleeting: set[str] = set()
        self._lasting: set[str] = {str(root)}
        self._paths: dict[int, str] = {}
        self.links: list[tuple[str, frozenset[str]]] = []

    def lasts(self, name: str) -> bool:
        """Whether the file of this name, relative to the root, would be there after a power cut now."""
        return not self._fleeting & _with_folders(self._root, name)

    def lasted_when_linked(self, name: str, linked: str) -> bool:
        """Whether the one would have been there when the other was linked."""
        (fleeting,) = (then for path, then in self.links if path == str(self._root / linked))
        return not fleeting & _with_folders(self._root, name)

    def note(self, call: Callable[..., object], args: tuple[object, ...], answer: object) -> None:
        if call is os.open:
            self._paths[cast(int, answer)] = path = str(args[0]).rstrip("/")
            if cast(int, args[1]) & os.O_CREAT:
                self._fleeting.add(path)
        elif call is os.write:
            self._fleeting.add(f"content of {self._path(args[0])}")
        elif call in (os.link, os.symlink, os.rename):
            assert f"content of {args[0]}" not in self._fleeting, "what is linked must be on disk already"
            self.links.append((str(args[1]), frozenset(self._fleeting)))
            self._fleeting.add(str(args[1]))
        elif call is os.makedirs:
            name = str(Path(str(args[0])).relative_to(self._root))
            self._fleeting |= _with_folders(self._root, name) - self._lasting
        elif call is os.fsync:
            self._sync(self._path(args[0]))

    def _path(self, handle: object) -> str:
        return self._paths[cast(int, handle)]

    def _sync(self, path: str) -> None:
        synced = {name for name in self._fleeting if os.path.dirname(name) == path or name == f"content of {path}"}
        self._fleeting -= synced
        self._lasting |= synced


def _with_folders(root: Path, name: str) -> set[str]:
    """The path of a name and of each folder above it, up to the root."""
    path = root / name
    return {str(path), *(str(folder) for folder in path.parents if root in folder.parents)}


class Fault:
    """Fails the `at`th of the calls in `among` (None: of all) with this errno; `lasting`: and every one after it."""

    def __init__(self, at: int, number: int, among: frozenset[Callable[..., object]] | None, *, lasting: bool) -> None:
        self._at = at
        self._number = number
        self._among = among
        self._lasting = lasting
        self._seen = 0
        self.failed: list[Callable[..., object]] = []

    def __call__(self, call: Callable[..., object]) -> None:
        if self._among is not None and call not in self._among:
            return
        self._seen += 1
        if self._seen == self._at or (self._lasting and self._seen > self._at):
            self.failed.append(call)
            raise OSError(self._number, os.strerror(self._number))


class Death:
    """Ends the process before the `at`th of these calls."""

    def __init__(self, at: int, among: Callable[..., object]) -> None:
        self._left = at
        self._among = among

    def __call__(self, call: Callable[..., object]) -> None:
        self._left -= call is self._among
        if self._left == 0:
            raise ProcessEnded


class FrozenCall(Generic[T]):
    """A call in a thread of its own that stops before its `at`th system call on `disk`, until thawed or ended."""

    def __init__(self, disk: WatchedDisk, at: int, call: Callable[[], T]) -> None:
        self._at = at
        self._seen = 0
        self._stopped_or_done = threading.Event()
        self._go_on = threading.Event()
        self._ends = False
        self._future: Future[T] = Future()
        self._future.add_done_callback(lambda _: self._stopped_or_done.set())
        disk.watch = self._step
        threading.Thread(target=self._run, args=(call,), daemon=True).start()
        assert self._stopped_or_done.wait(WITHIN_S), "the call neither stopped nor ended"
        self.is_frozen = not self._future.done()

    def thaw(self) -> T:
        """It goes on; what it gives back or raises."""
        self._go_on.set()
        return self._future.result(WITHIN_S)

    def end(self) -> None:
        """Its process dies where it stands."""
        self._ends = True
        self._go_on.set()
        error = self._future.exception(WITHIN_S)
        assert isinstance(error, ProcessEnded), error

    def _run(self, call: Callable[[], T]) -> None:
        try:
            self._future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed on to whoever thaws it
            self._future.set_exception(error)

    def _step(self, _call: Callable[..., object]) -> None:
        self._seen += 1
        if self._seen == self._at:
            self._stopped_or_done.set()
            assert self._go_on.wait(WITHIN_S), "nobody thawed it"
            if self._ends:
                raise ProcessEnded
