"""Workers in Redis that say what this version does not understand: an older or a newer one's, or anybody's."""

from typing import TYPE_CHECKING

import msgspec

from shared.redis_keys import RedisKeys

if TYPE_CHECKING:
    import redis

NOW_AND_LONG = (2**47).to_bytes(6, "big")  # seen in a time to come, so that it lives for as long as a test
BEGUN = (1_700_000_000_000).to_bytes(6, "big")
HEAD = NOW_AND_LONG + BEGUN
GOOD = ["host", 1, "threads", ["default"], 8, 0]

_SAID: list[object] = [
    *(GOOD[:2], [], None, 5, "text", {"host": "host"}),
    *([*GOOD[:place], bad, *GOOD[place + 1 :]] for place, bad in enumerate((7, "1", "processes", "all", None, 1.5))),
]


def announce_nonsense(client: "redis.Redis") -> None:
    """Each in a way of its own."""
    good, key = msgspec.msgpack.encode(GOOD), RedisKeys("invigil").key("workers").decode()
    values = [HEAD + msgspec.msgpack.encode(said) for said in _SAID]
    values += [b"", b"x", NOW_AND_LONG, HEAD, HEAD + b"\xff\xc1"]
    values += [b"\xff" * 12 + good, NOW_AND_LONG + b"\xff" * 6 + good]  # instants that no calendar has
    for number, value in enumerate(values):
        client.hset(key, f"{number:032x}", value)
    client.hset(key, b"\xff\xfe", HEAD + good)
