"""Every Redis key of Invigil, built here and nowhere else.

| key                          | type   | lives                                          |
|------------------------------|--------|------------------------------------------------|
| `<ns>:tombstone:<task id>`   | string | an hour longer than the task could still be due  |
| `<ns>:dramatiq*`             | many   | as Dramatiq's own Redis broker keeps them      |
"""


class RedisKeys:
    """Keys below one namespace, so that several deployments can share a Redis."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    @property
    def dramatiq(self) -> str:
        """The prefix that Dramatiq's broker puts before its own keys."""
        return f"{self._namespace}:dramatiq"

    def tombstone(self, task_id: str) -> str:
        return f"{self._namespace}:tombstone:{task_id}"
