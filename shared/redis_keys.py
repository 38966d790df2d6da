"""Every Redis key of Invigil, built here and nowhere else, for Python and for Lua alike.

| key                              | type       | what                                               | lives           |
|----------------------------------|------------|----------------------------------------------------|-----------------|
| `{ns}:messages`                  | hash       | id → record of a task not ended, or a dead letter  | until its end   |
| `{ns}:due:<queue>`               | sorted set | ids by the ms at which they are due                | until promoted  |
| `{ns}:ready:<queue>:<priority>`  | sorted set | ids by place: the µs at which they became ready    | until fetched   |
| `{ns}:alone:<queue>`             | sorted set | the same, of tasks to run alone in their process   | until fetched   |
| `{ns}:leases:<queue>`            | sorted set | ids by the ms at which their lease ends            | while held      |
| `{ns}:dead:<queue>`              | sorted set | ids of dead letters by the ms of their end         | 7 days          |
| `{ns}:live:<id>`                 | hash       | token, place, state and counts of a task under way | until its end   |
| `{ns}=<id>`                      | string     | how a task ended; a tombstone if it was revoked    | 24 h, a setting |
| `{ns}:recent:<queue>`            | sorted set | ids of the 10,000 that ended last, by the ms       | for good        |
| `{ns}:ticked:<schedule>:<ms>`    | string     | this tick has been sent                            | 2 days          |
| `{ns}:turns:<queue>`             | string     | how many messages fetches have asked for           | for good        |
| `{ns}:signal:<queue>`            | list       | a token: something is ready                        | until taken     |
| `{ns}:sooner:<queue>`            | list       | a token: something is due before all else          | until taken     |
| `{ns}:group:<group>`             | hash       | how many of it have not succeeded yet, and who has | 30 days         |
| `{ns}:workers`                   | hash       | process → when it was seen last, and what it is    | while it lives  |
| `{ns}:control:<process>`         | channel    | ids of running tasks to interrupt                  |                 |
| `{ns}:ending:<id>`               | channel    | how this task has just ended, for those who wait   |                 |

`ns` stands in braces: a hash tag, so that a Redis Cluster keeps all keys in one slot. `<id>` is binary, see
broker/record.py. The key of an ended task is kept short: it is most of what a cancelled task still costs.
"""

_PATTERNS: dict[str, tuple[str, ...]] = {  # what stands before, between and after the parts
    "messages": (":messages",),
    "due_set": (":due:", ""),
    "ready": (":ready:", ":", ""),
    "alone": (":alone:", ""),
    "leases": (":leases:", ""),
    "dead": (":dead:", ""),
    "live": (":live:", ""),
    "ended": ("=", ""),
    "recent": (":recent:", ""),
    "ticked": (":ticked:", ":", ""),
    "turns": (":turns:", ""),
    "signal": (":signal:", ""),
    "sooner": (":sooner:", ""),
    "group": (":group:", ""),
    "workers": (":workers",),
    "control": (":control:", ""),
    "ending": (":ending:", ""),
}


class RedisKeys:
    """Keys below one namespace, so that several deployments can share a Redis."""

    def __init__(self, namespace: str) -> None:
        self._tag = "{" + namespace + "}"

    def key(self, name: str, *parts: bytes | str) -> bytes:
        """The key of this name; `parts` fill the places in angle brackets above."""
        first, *between = _PATTERNS[name]
        encoded = [part if isinstance(part, bytes) else part.encode() for part in parts]
        tail = b"".join(part + text.encode() for part, text in zip(encoded, between, strict=True))
        return (self._tag + first).encode() + tail

    def in_lua(self, name: str) -> str:
        """Lua that gives the same key: a function of the parts, or a constant where there are none."""
        first, *between = _PATTERNS[name]
        if not between:
            return f"local {name} = '{self._tag}{first}'"
        parts = [f"part{number}" for number in range(len(between))]
        pieces = [f"'{self._tag}{first}'"]
        for part, text in zip(parts, between, strict=True):
            pieces += [part, f"'{text}'"] if text else [part]
        return f"local function {name}({', '.join(parts)}) return {' .. '.join(pieces)} end"

    @staticmethod
    def names() -> tuple[str, ...]:
        return tuple(_PATTERNS)
