"""What a deployment in containers needs once, before its first start: a password for Redis and a first API key.

`python -m api.first_run <folder shared with Redis> <folder of the API>` makes what is missing and keeps the rest.
"""

import os
import secrets
import sys
from datetime import datetime
from pathlib import Path

from api.keys import SCOPES, KeyFile
from shared.clock import SystemClock
from shared.errors import StoreUnavailable


def prepare_redis(folder: Path) -> None:
    """`password`, and `url` with the password in it: Redis listens on a socket in the same folder."""
    password = folder / "password"
    if not password.exists():
        write_whole(password, secrets.token_hex(32), 0o440)
    write_whole(folder / "url", f"unix://:{password.read_text()}@{folder}/redis.sock", 0o440)


def prepare_key(folder: Path, now: datetime) -> None:
    """A key with all scopes in `keys.json`, and its text in `first-key`."""
    kept = folder / "first-key"
    if not kept.exists():
        write_whole(kept, KeyFile(str(folder / "keys.json")).new("first key", SCOPES, now, lifetime=None), 0o400)


def write_whole(path: Path, text: str, mode: int) -> None:
    """Readers find the whole text or no file, also after a crash."""
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def main() -> None:
    redis, api = (Path(argument) for argument in sys.argv[1:])
    try:
        prepare_redis(redis)
        prepare_key(api, SystemClock().now())
    except (OSError, StoreUnavailable) as error:
        sys.exit(f"api.first_run: {error}")


if __name__ == "__main__":
    main()
