"""A sign of life of a process without an address: a file that it touches while its loop runs.

`python -m shared.pulse <seconds>` ends with status 0 where the file is no older; container health checks call it.
"""

import os
import sys
import time

from shared.errors import SettingsError
from shared.settings import Settings, need


class Pulse:
    """Touches the file at `path`; does nothing where that is None."""

    def __init__(self, path: str | None) -> None:
        self._path = path

    def beat(self) -> None:
        if self._path is not None:
            with open(self._path, "w"):
                os.utime(self._path)


def main() -> None:
    try:
        path = need(Settings.from_environ(os.environ).pulse_file, "PULSE_FILE")
        age = time.time() - os.stat(path).st_mtime
    except (SettingsError, OSError) as error:
        sys.exit(f"no pulse: {error}")
    if age > float(sys.argv[1]):
        sys.exit(f"the last pulse was {age:.0f} s ago")


if __name__ == "__main__":
    main()
