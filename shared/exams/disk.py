"""The system calls of the file store, each with its one meaning and its errors translated.

What makes it a database: link(2) lets exactly one writer take a name, fsync of a file and of its folder makes both
last. Nothing is ever written twice or locked.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from itertools import islice
from typing import NoReturn, ParamSpec, TypeVar

from shared.errors import StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")

_KNOWN_FOLDERS = 10_000  # about a week of minute folders; beyond it the memory starts anew


class Disk:
    """A folder tree below `root`. Paths are relative to it; every OSError becomes StoreUnavailable.

    `halt` is called with the error when fsync reports EIO: the kernel may have dropped the page, so asking again
    could say "done" for data that is gone. It must end the process.
    """

    def __init__(self, root: str, halt: Callable[[OSError], object]) -> None:
        self.root = root
        self._halt = halt
        self._known: set[str] = set()

    def write_new(self, *files: tuple[str, bytes]) -> None:
        """Writes files that did not exist, each a path and a content, and they are on disk when this returns; after
        an error none of them is left.
        """
        handles: list[int] = []
        try:
            for path, data in files:
                handles.append(self._create(path))
                self._write(handles[-1], path, data)
            if len(files) > 1:
                for handle, (path, _) in zip(handles, files, strict=True):
                    self._begin_writing_out(handle, path)
            for handle, (path, _) in zip(handles, files, strict=True):
                self._sync(handle, path)
        except StoreUnavailable:
            for path, _ in files[: len(handles)]:
                with contextlib.suppress(StoreUnavailable):
                    self.remove(path)
            raise
        finally:
            for handle in handles:
                os.close(handle)

    def link(self, source: str, target: str) -> bool:
        """Gives the file a second name; False where that name is taken. FileNotFoundError: source or folder gone."""
        try:
            self._call(os.link, f"{self.root}/{source}", f"{self.root}/{target}")
        except FileExistsError:
            return False
        except FileNotFoundError:
            raise
        except OSError as error:
            _refuse(error, "link", target)
        return True

    def stamp(self, path: str) -> None:
        """As if the file were written now, as `age` tells. FileNotFoundError: it is gone."""
        try:
            self._call(os.utime, f"{self.root}/{path}")
        except FileNotFoundError:
            raise
        except OSError as error:
            _refuse(error, "stamp", path)

    def point(self, text: str, target: str) -> bool:
        """Makes a symbolic link that says `text`; False where the name is taken."""
        try:
            self._call(os.symlink, text, f"{self.root}/{target}")
        except FileExistsError:
            return False
        except OSError as error:
            _refuse(error, "symlink", target)
        return True

    def pointed(self, path: str) -> str | None:
        """What a symbolic link says, or None where there is none."""
        try:
            return self._call(os.readlink, f"{self.root}/{path}")
        except FileNotFoundError:
            return None
        except OSError as error:
            _refuse(error, "read", path)

    def move(self, source: str, target: str) -> bool:
        """Renames; False where the source is gone, because somebody else moved it."""
        try:
            self._call(os.rename, f"{self.root}/{source}", f"{self.root}/{target}")
        except FileNotFoundError:
            return False
        except OSError as error:
            _refuse(error, "rename", source)
        return True

    def remove(self, path: str) -> None:
        """Takes a name away; it may be gone already."""
        try:
            self._call(os.unlink, f"{self.root}/{path}")
        except FileNotFoundError:
            pass
        except OSError as error:
            _refuse(error, "remove", path)

    def read(self, path: str) -> bytes | None:
        """The whole file, or None where there is none."""
        try:
            handle = self._call(os.open, f"{self.root}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            _refuse(error, "read", path)
        try:
            parts = [self._call(os.read, handle, 65_536)]
            while len(parts[-1]) == 65_536:
                parts.append(self._call(os.read, handle, 65_536))
        except OSError as error:
            _refuse(error, "read", path)
        finally:
            os.close(handle)
        return b"".join(parts)

    def open(self, path: str) -> "OpenFile | None":
        """The file, to be read part by part, or None where there is none."""
        try:
            handle = self._call(os.open, f"{self.root}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            _refuse(error, "read", path)
        return OpenFile(handle, path)

    def exists(self, path: str) -> bool:
        try:
            self._call(os.lstat, f"{self.root}/{path}")
        except FileNotFoundError:
            return False
        except OSError as error:
            _refuse(error, "look at", path)
        return True

    def age(self, path: str, now: float) -> float | None:
        """Seconds since the file was written, by its own stamp, or None where there is none. `now`: Unix time."""
        try:
            return now - self._call(os.stat, f"{self.root}/{path}").st_mtime
        except FileNotFoundError:
            return None
        except OSError as error:
            _refuse(error, "look at", path)

    def names(self, folder: str) -> list[str]:
        """What a folder holds, in no order; nothing where there is no folder."""
        try:
            return self._call(os.listdir, f"{self.root}/{folder}")
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            _refuse(error, "list", folder)

    def some_names(self, folder: str, most: int) -> list[str]:
        """As `names`, without reading more of a large folder than is asked for."""
        try:
            with self._call(os.scandir, f"{self.root}/{folder}") as entries:
                return [entry.name for entry in islice(entries, most)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            _refuse(error, "list", folder)

    def make_folder(self, folder: str, *, lasting: bool = True) -> None:
        """The folder and those above it, made where missing, and on disk when this returns unless `lasting` is off.

        Somebody else may have made them a moment ago and not have synced yet, so a folder is taken as lasting only
        after this process has synced its parents once.
        """
        if folder in self._known:
            return
        try:
            self._call(os.makedirs, f"{self.root}/{folder}", 0o750, exist_ok=True)
        except OSError as error:
            _refuse(error, "make folder", folder)
        if not lasting:
            return
        parts = folder.split("/")
        for depth in range(len(parts)):
            self.sync_folder("/".join(parts[:depth]))
        if len(self._known) >= _KNOWN_FOLDERS:
            self._known.clear()
        self._known.add(folder)

    def forget_folder(self, folder: str) -> None:
        """It was found missing: the next make_folder makes it."""
        self._known.discard(folder)

    def remove_folder_if_empty(self, folder: str) -> None:
        try:
            self._call(os.rmdir, f"{self.root}/{folder}")
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                _refuse(error, "remove folder", folder)
        self.forget_folder(folder)

    def sync_folder(self, folder: str) -> None:
        """The names in it are on disk when this returns."""
        try:
            handle = self._call(os.open, f"{self.root}/{folder}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            _refuse(error, "open", folder)
        try:
            self._sync(handle, folder)
        finally:
            os.close(handle)

    def _create(self, path: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return self._call(os.open, f"{self.root}/{path}", flags, 0o640)
        except OSError as error:
            _refuse(error, "create", path)

    def _write(self, handle: int, path: str, data: bytes) -> None:
        try:
            while data:
                data = data[self._call(os.write, handle, data) :]
        except OSError as error:
            _refuse(error, "write", path)

    def _begin_writing_out(self, handle: int, path: str) -> None:
        """So that the syncs of several files find their blocks allocated, and the file system's journal is committed
        about once for all of them instead of once for each: eight files take half the time.
        """
        try:
            self._call(os.posix_fadvise, handle, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            _refuse(error, "write", path)

    def _call(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Every system call passes here, so that one can be counted, delayed or failed."""
        return call(*args, **kwargs)

    def _sync(self, handle: int, path: str) -> None:
        try:
            self._call(os.fsync, handle)
        except OSError as error:
            if error.errno == errno.EIO:
                self._halt(error)
            _refuse(error, "sync", path)


class OpenFile:
    """A file of `size` bytes being read from its beginning. It can be read to its end though its name is removed."""

    def __init__(self, handle: int, path: str) -> None:
        self._handle = handle
        self._path = path
        self.size = os.fstat(handle).st_size

    def __enter__(self) -> "OpenFile":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def read(self, most: int) -> bytes:
        """The next part; empty at the end."""
        try:
            return os.read(self._handle, most)
        except OSError as error:
            _refuse(error, "read", self._path)

    def close(self) -> None:
        """Once only."""
        os.close(self._handle)


def _refuse(error: OSError, verb: str, path: str) -> NoReturn:
    raise StoreUnavailable(f"cannot {verb} {path or 'the store'}: {error.strerror}") from error
