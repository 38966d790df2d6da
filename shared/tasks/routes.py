"""Which queue a task goes to: its own, what the rules of INVIGIL_ROUTES say, or what its call says."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from shared.errors import SettingsError

if TYPE_CHECKING:
    from shared.tasks.task import Task


class Rule(NamedTuple):
    """Tasks whose name matches `pattern` (with `*` and `?`) go to `queue`."""

    pattern: str
    queue: str


class Routes:
    """`tasks`: all that there are. `reserved`: queues that only the tasks declared for them use, which use no other: a
    deadline must not wait behind anything else. The first rule that matches counts.

    Raises SettingsError for a rule that leads to a reserved queue.
    """

    def __init__(self, tasks: Sequence["Task[..., Any]"], rules: Sequence[Rule], reserved: Sequence[str]) -> None:
        for rule in rules:
            if rule.queue in reserved:
                raise SettingsError(f"INVIGIL_ROUTES cannot be used: {rule.queue} is for tasks declared for it")
        self._rules = rules
        self._reserved = reserved
        declared = [task.queue for task in tasks]
        self.queues = tuple(dict.fromkeys([*declared, *(rule.queue for rule in rules)]))

    def queue_of(self, task: "Task[..., Any]") -> str:
        """Where it goes unless its call says otherwise."""
        if task.queue not in self._reserved:
            for rule in self._rules:
                if fnmatchcase(task.name, rule.pattern):
                    return rule.queue
        return task.queue

    def queues_for(self, task: "Task[..., Any]") -> tuple[str, ...]:
        """Those that a call may name."""
        if task.queue in self._reserved:
            return (task.queue,)
        return tuple(queue for queue in self.queues if queue not in self._reserved)
