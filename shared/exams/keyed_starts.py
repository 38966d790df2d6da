"""Starts under an idempotency key: however often one is repeated, whatever crashes in between, it makes one exam.

The key's pk is kept before the exam is made, and every attempt runs the same start of that pk: the first one to get
through makes the exam, any other finds it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shared.clock import Clock
from shared.errors import ExamNotFound, InvigilError, StoreDamaged, StoreUnavailable
from shared.exams.model import Exam
from shared.exams.pk import new_pk
from shared.exams.register import ExamRegister, Start
from shared.idempotency import Attempt, Claim, IdempotencyKeys


class KeyedStart(NamedTuple):
    """A request to start an exam, and the attempt that it is."""

    start: Start
    attempt: Attempt


class Sitting(NamedTuple):
    """The exam of a key as it stands now, and whether another attempt had begun it."""

    exam: Exam
    is_repeat: bool


class KeyedStarts:
    """Starts exams in `register`, each under the pk that `keys` holds for it."""

    def __init__(self, register: ExamRegister, keys: IdempotencyKeys, clock: Clock) -> None:
        self._register = register
        self._keys = keys
        self._clock = clock

    def start(self, starts: Sequence[KeyedStart]) -> list[Sitting | InvigilError]:
        """The exam of each, durably. InvalidInput for a key used with another body, StoreDamaged where its exam or
        its claim cannot be read, StoreUnavailable where a new one was voided meanwhile.
        """
        claims = self._keys.claim([attempt for _, attempt in starts], self._new_pk)
        places: dict[str, list[int]] = {}  # by the key: one may have come several times at once
        answers: dict[int, Sitting | InvigilError] = {}
        for place, claim in enumerate(claims):
            if isinstance(claim, Claim):
                places.setdefault(claim.name, []).append(place)
            else:
                answers[place] = claim
        firsts = [place for place, *_ in places.values()]
        wanted = [(claim, starts[place].start) for place in firsts if isinstance(claim := claims[place], Claim)]
        for (first, *others), answer in zip(places.values(), self._sittings(wanted), strict=True):
            answers[first] = answer
            again = answer._replace(is_repeat=True) if isinstance(answer, Sitting) else answer
            answers.update(dict.fromkeys(others, again))
        return [answers[place] for place in range(len(starts))]

    def _sittings(self, wanted: Sequence[tuple[Claim, Start]]) -> list[Sitting | InvigilError]:
        """One for each claim, none of them for the same key."""
        claims = [claim for claim, _ in wanted]
        answers: dict[int, Sitting | InvigilError] = {}
        while open_ := [place for place in range(len(claims)) if place not in answers]:
            found = self._found({place: claims[place].id for place in open_ if not claims[place].is_new})
            missing = [place for place in open_ if place not in found]
            begun = self._register.begin([(claims[place].id, wanted[place][1]) for place in missing]) if missing else []
            ours = {place: exam for place, exam in zip(missing, begun, strict=True) if exam is not None}
            found |= {place: exam for place, exam in ours.items() if claims[place].is_new}
            # Begun by another in this very moment, or by us so late that it may be over.
            found |= self._found({place: claims[place].id for place in missing if place not in found})
            for place in open_:
                if place in found:
                    answers[place] = _answer(found[place], is_repeat=place not in ours)
                elif claims[place].is_new:
                    answers[place] = StoreUnavailable("this start took so long that it was given up")
                else:
                    try:
                        claims[place] = self._keys.claim_anew(claims[place], self._new_pk)
                    except StoreDamaged as error:
                        answers[place] = error
        return [answers[place] for place in range(len(claims))]

    def _found(self, pks: Mapping[int, str]) -> dict[int, Exam | InvigilError]:
        """Without those that were not begun, or were voided."""
        exams = zip(pks, self._register.find(list(pks.values())), strict=True)
        return {place: exam for place, exam in exams if not isinstance(exam, ExamNotFound)}

    def _new_pk(self) -> str:
        return new_pk(self._clock.now())


def _answer(found: Exam | InvigilError, *, is_repeat: bool) -> Sitting | InvigilError:
    return Sitting(found, is_repeat) if isinstance(found, Exam) else found
