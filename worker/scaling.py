"""How many worker processes there should be: decided from what is seen, when, and what was seen before; nothing else.

More where something has waited a while that those present will not get through in a moment, and several at once where
that is much. One fewer where it would have been enough for long.
"""

from datetime import timedelta
from enum import StrEnum
from math import ceil, inf
from typing import NamedTuple

PATIENCE = timedelta(seconds=0.5)  # what has waited less may be gone before another process could take it
CLEARED_WITHIN = timedelta(seconds=2)
STARTED_AT_ONCE = 8  # each takes a third of a second of CPU from those that work
SPARE = 1.25  # what is left after one goes is a little more than is busy
CALM = timedelta(seconds=10)  # how long one fewer must have been enough
LONGEST_CALM = timedelta(seconds=160)
REGRET = timedelta(seconds=60)  # growing so soon after one has gone means that it went too early


class Bounds(NamedTuple):
    most: int
    fewest: int


class Sight(NamedTuple):
    """`waiting` could run now, `oldest` is how long the first of them has waited; `running` is held by any worker.

    `present` processes run, boot or are about to; `serving` of them have booted. Those that drain are in neither.
    """

    at_s: float
    waiting: int
    running: int
    oldest: timedelta
    present: int
    serving: int


class Memory(NamedTuple):
    """What was seen before: `last`, and since when one process fewer would have been enough."""

    last: Sight | None = None
    calm_since_s: float | None = None
    calm: timedelta = CALM
    shrunk_at_s: float = -inf


class Reason(StrEnum):
    """Of a decision. All but TOO_SLOW and ONE_TOO_MANY leave things as they are."""

    NOTHING_WAITS = "nothing waits"
    NOTHING_WAITS_LONG = "nothing has waited long"
    NONE_SERVES = "none has booted"
    ENOUGH = "those present will soon get through what waits"
    TOO_SLOW = "those present will not soon get through what waits"
    CALM = "one fewer would be enough, but not for long yet"
    ONE_TOO_MANY = "one fewer has been enough for long"


class Decision(NamedTuple):
    to: int
    reason: Reason


def decide(bounds: Bounds, threads: int, sight: Sight, memory: Memory) -> tuple[Decision, Memory]:
    """How many processes of so many threads there should be, and the memory for the next decision."""
    need, reason = _need(threads, sight, memory.last)
    to = max(sight.present, min(need, bounds.most, sight.present + STARTED_AT_ONCE))
    if to > sight.present:
        regrets = sight.at_s - memory.shrunk_at_s < REGRET.total_seconds()
        calm = min(2 * memory.calm, LONGEST_CALM) if regrets else CALM
        return Decision(to, reason), memory._replace(last=sight, calm_since_s=None, calm=calm)
    if sight.present <= bounds.fewest or not _is_one_too_many(threads, sight):
        return Decision(to, reason), memory._replace(last=sight, calm_since_s=None)
    since_s = sight.at_s if memory.calm_since_s is None else memory.calm_since_s
    if sight.at_s - since_s < memory.calm.total_seconds():
        return Decision(to, Reason.CALM), memory._replace(last=sight, calm_since_s=since_s)
    memory = memory._replace(last=sight, calm_since_s=None, shrunk_at_s=sight.at_s)
    return Decision(to - 1, Reason.ONE_TOO_MANY), memory


def after_a_gap(memory: Memory) -> Memory:
    """Nothing could be seen for a while: what was seen before says nothing about it."""
    return memory._replace(last=None, calm_since_s=None)


def _need(threads: int, sight: Sight, last: Sight | None) -> tuple[int, Reason]:
    """So many processes would get through what waits; 0 where there is no reason for another."""
    if not sight.waiting:
        return 0, Reason.NOTHING_WAITS
    if sight.oldest < PATIENCE or (last and sight.oldest.total_seconds() < sight.at_s - last.at_s):
        return 0, Reason.NOTHING_WAITS_LONG  # at the last look it was not there yet, so nobody knows how fast it goes
    if not sight.serving:
        return 0, Reason.NONE_SERVES
    need = ceil((sight.waiting + _busy(threads, sight)) / threads)
    cleared_by_one = _cleared_by_one(sight, last)
    if cleared_by_one > 0:
        need = min(need, ceil(sight.waiting / cleared_by_one))
    return need, Reason.TOO_SLOW if need > sight.present else Reason.ENOUGH


def _cleared_by_one(sight: Sight, last: Sight | None) -> float:
    """How much of what waits a process takes off within CLEARED_WITHIN, as seen since the last look; those that boot
    now will do as well. Not above 0 where that is not known, or as much comes in.
    """
    if last is None or sight.at_s <= last.at_s:
        return 0.0
    a_second = (last.waiting - sight.waiting) / (sight.at_s - last.at_s)
    return a_second * CLEARED_WITHIN.total_seconds() / sight.serving


def _is_one_too_many(threads: int, sight: Sight) -> bool:
    return (sight.waiting + _busy(threads, sight)) * SPARE <= (sight.present - 1) * threads


def _busy(threads: int, sight: Sight) -> int:
    """Of the places of those present. What is held beyond them is held by those that drain, or in batches."""
    return min(sight.running, sight.present * threads)
