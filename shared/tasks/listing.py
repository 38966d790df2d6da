"""Lists of tasks, from sets that are bounded or read page by page: nothing here looks at all that there is.

A list is made of sections: what workers hold, what is ready, what is due later, and what has ended lately. A cursor
says where a page has ended, by section, score and id, so it stays good whatever is gone meanwhile; a task that moves
from one section to another between two pages may be seen twice or not at all.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from shared.broker.engine import Engine, Place
from shared.broker.states import State, TaskState

LOOKED_AT = 1_000  # of a page, at most: one in which few match is short
LOOKED_AT_BYTES = 1024 * 1024  # of a page too: where results are large it is short
LOOKED_AT_TOGETHER = 20  # a page may be larger by so many
PLACES_TOGETHER = 100
MOST_LEASED = 10_000  # of a queue: as many as its workers have threads


class Section(NamedTuple):
    """`set`: its name in the engine."""

    set: str
    last_first: bool = False


LEASED, RECENT, DEAD = Section("leases"), Section("recent", last_first=True), Section("dead", last_first=True)
WAITING = (Section("alone"), *(Section(str(priority)) for priority in range(9, -1, -1)), Section("due_set"))
SECTIONS = (LEASED, *WAITING, RECENT)
_OF_STATE = {
    State.PENDING: (LEASED, *WAITING),
    State.RETRY: (LEASED, *WAITING),
    State.STARTED: (LEASED,),
}


class Cursor(NamedTuple):
    """Where a page has ended: the number of its section among those of the query, and the place in that."""

    section: int
    place: Place


class TaskQuery(NamedTuple):
    """`after`: the cursor of the page before."""

    limit: int
    state: State | None = None
    task: str | None = None
    after: Cursor | None = None


class TaskPage(NamedTuple):
    """`next`: None where there are no more."""

    states: list[TaskState]
    next: Cursor | None


class TaskLists:
    """Lists of the tasks in an engine's queues. Raises BrokerUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def tasks(self, queues: Sequence[str], query: TaskQuery) -> TaskPage:
        """What is under way, then what has ended, the last end first."""
        sections = SECTIONS if query.state is None else _OF_STATE.get(query.state, (RECENT,))
        return self._page(queues, query, sections)

    def dead_letters(self, queues: Sequence[str], query: TaskQuery) -> TaskPage:
        """The last one first. One whose end is forgotten is about to be let go."""
        return self._page(queues, query._replace(state=State.FAILURE), (DEAD,))

    def _page(self, queues: Sequence[str], query: TaskQuery, sections: Sequence[Section]) -> TaskPage:
        found: dict[str, TaskState] = {}  # one that has moved on while we looked is found twice
        looked_at = size = 0
        last = None
        for cursors in self._batches(queues, query, sections):
            states = self._engine.look_up_many([cursor.place.id for cursor in cursors])
            for cursor, state in zip(cursors, states, strict=True):
                if len(found) == query.limit:
                    return TaskPage(list(found.values()), last)
                last = cursor
                if state is not None:
                    size += len(msgspec.msgpack.encode(state))
                    if _matches(state, query):
                        found.setdefault(state.id, state)
            looked_at += len(cursors)
            if looked_at >= LOOKED_AT or size >= LOOKED_AT_BYTES:
                return TaskPage(list(found.values()), last)
        return TaskPage(list(found.values()), None)

    def _batches(self, queues: Sequence[str], query: TaskQuery, sections: Sequence[Section]) -> Iterator[list[Cursor]]:
        """Places in the order of the list, from where the page before has ended."""
        after = query.after
        for number, section in enumerate(sections):
            if after is not None and number < after.section:
                continue
            place = after.place if after is not None and after.section == number else None
            for places in self._places(section, queues, place):
                for begin in range(0, len(places), LOOKED_AT_TOGETHER):
                    yield [Cursor(number, place) for place in places[begin : begin + LOOKED_AT_TOGETHER]]

    def _places(self, section: Section, queues: Sequence[str], after: Place | None) -> Iterator[list[Place]]:
        if section == LEASED:
            # By their ids: the score of each changes every three seconds.
            ids = sorted(self._engine.leased(queues, MOST_LEASED))
            yield [Place(0, task_id) for task_id in ids if after is None or task_id > after.id]
            return
        while places := self._engine.page(section.set, queues, PLACES_TOGETHER, after, last_first=section.last_first):
            yield places
            after = places[-1]


def _matches(state: TaskState, query: TaskQuery) -> bool:
    return query.state in (None, state.state) and query.task in (None, state.task)
