"""What a deployment in containers needs once, before its first start: a password for Redis and a first API key.

`python -m api.first_run <folder shared with Redis> <folder of the API>` makes what is missing and keeps the rest.
"""

import secrets
import sys
from datetime import datetime
from pathlib import Path

from api.keys import SCOPES, KeyFile
from api.whole_file import write_whole
from shared.clock import SystemClock
from shared.errors import StoreUnavailable


def prepare_redis(folder: Path) -> None:
    """`password`, and `url` with the password in it: Redis listens on a socket in the same folder."""
    password = folder / "password"
    if not password.exists():
        write_whole(password, secrets.token_hex(32).encode(), 0o440)
    url = f"unix://:{password.read_text()}@{folder}/redis.sock"
    write_whole(folder / "url", url.encode(), 0o440)


def prepare_key(folder: Path, now: datetime) -> None:
    """A key with all scopes in `keys.json`, and its text in `first-key`."""
    kept = folder / "first-key"
    if not kept.exists():
        key = KeyFile(str(folder / "keys.json")).new("first key", SCOPES, now, lifetime=None)
        write_whole(kept, key.encode(), 0o400)


def main() -> None:
    redis, api = (Path(argument) for argument in sys.argv[1:])
    try:
        prepare_redis(redis)
        prepare_key(api, SystemClock().now())
    except (OSError, StoreUnavailable) as error:
        sys.exit(f"api.first_run: {error}")


if __name__ == "__main__":
    main()
