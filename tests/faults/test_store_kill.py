"""Writers killed with `kill -9` at random moments, round after round, on one folder."""

import random
from datetime import timedelta
from pathlib import Path

import pytest

from shared.clock import SystemClock
from shared.exams.model import Exam, Status
from tests.conftest import ROUNDS
from tests.support.exam_files import check_aftermath
from tests.support.exam_writers import Acknowledged, Writer

WRITERS = 3
MOST_ANSWERS = 40  # a round ends after at most so many acknowledgements


def acknowledged_in_a_round(root: Path, number: int, chance: random.Random) -> list[Acknowledged]:
    """Starts writers and kills them one after the other, each after an unforeseeable number of answers."""
    writers = [Writer(root, f"{number:04}-{n}", chance.getrandbits(32)) for n in range(WRITERS)]
    answers: list[Acknowledged] = []
    for writer in writers:
        answers += [writer.next() for _ in range(chance.randint(1, MOST_ANSWERS))]
        answers += writer.kill()
    return answers


@pytest.mark.rounds
def test_nothing_acknowledged_is_lost_or_doubled_by_kills(tmp_path: Path) -> None:
    """Every exam acknowledged exists with the outcome acknowledged; each outcome is one, and in one digest."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    chance = random.Random(seed)
    acknowledged: dict[str, Status | None] = {}
    digested: dict[str, list[str]] = {}
    for number in range(ROUNDS):
        for answer in acknowledged_in_a_round(tmp_path, number, chance):
            if answer.window is not None:
                digested[answer.window] = answer.pks
            else:
                assert all(acknowledged.get(pk) in (None, answer.status) for pk in answer.pks)
                acknowledged.update(dict.fromkeys(answer.pks, answer.status))
    exams = check_aftermath(tmp_path, SystemClock().now() + timedelta(days=1), acknowledged, digested)
    assert _outcomes_seen(exams) == {Status.PASS, Status.FAIL, Status.ABSENT}
    assert any(digested.values())


def _outcomes_seen(exams: dict[str, Exam]) -> set[Status]:
    return {exam.status for exam in exams.values()}
