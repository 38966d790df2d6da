"""Idempotency keys: every attempt at a request that its caller repeats works on one and the same id.

    idempotency/YYYYMMDD/<hash>        symbolic link that says the body's hash and the id, or "closed"
    idempotency/YYYYMMDD/<hash>.<n>    the n-th to take its place, where ids were given up

The hash is of caller, route and key, 128 bits of it; the day is that of the first attempt. A claim holds for the rest
of its day and for the next one, so for 24 to 48 hours. Whoever claims a key for a day closes the day before first: of
two processes whose clocks stand on either side of midnight, one finds its day taken and follows the other. Nothing is
ever replaced; a day that nobody looks at any more is removed as a whole. docs/design.md says why that is safe, whatever
freezes in between.
"""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from shared.clock import Clock
from shared.errors import FieldError, InvalidInput, StoreDamaged, StoreUnavailable
from shared.exams.disk import Disk

HEADER = "Idempotency-Key"
KEY_LIMIT = 255  # characters
GIVEN_UP_AFTER = timedelta(hours=1)  # a claim takes milliseconds; days are removed long after
CLEARED_TOGETHER = 10_000  # links removed by a call of clear, in about a quarter of a second

_DAY = timedelta(days=1)
_CLOSED = "closed"
_GIVEN_UP = "this request took so long that it was given up"


class Attempt(msgspec.Struct, frozen=True):
    """A request whose caller may repeat it under a key. `body`: whatever is the same where the same is asked for."""

    caller: str
    route: str
    key: str
    body: bytes

    def __post_init__(self) -> None:
        if not (self.key.isascii() and self.key.isprintable() and 0 < len(self.key) <= KEY_LIMIT):
            raise InvalidInput(FieldError(HEADER, f"must be 1 to {KEY_LIMIT} printable ASCII characters"))


class Claim(NamedTuple):
    """The id that every attempt under a key works on, and whether this attempt was the first to name it. The rest says
    where that is written: the body's hash, the name of the link, how many ids were given up before.
    """

    id: str
    is_new: bool
    body: str
    name: str
    turn: int = 0


class IdempotencyKeys:
    """Claims on `disk`. Each call raises StoreUnavailable where the disk cannot be read or written."""

    def __init__(self, disk: Disk, clock: Clock) -> None:
        self._disk = disk
        self._clock = clock

    def prepare(self) -> None:
        self._disk.make_folder("idempotency")

    def claim(
        self, attempts: Sequence[Attempt], make_id: Callable[[], str]
    ) -> list[Claim | InvalidInput | StoreDamaged]:
        """The claim each attempt works under, which lasts when this returns; InvalidInput where the key was used with
        another body, StoreDamaged where its claim cannot be understood.
        """
        now = self._clock.now()
        claims = [self._claim(attempt, make_id, now) for attempt in attempts]
        self._make_last([claim for claim in claims if isinstance(claim, Claim)])
        if self._clock.now() - now > GIVEN_UP_AFTER:
            raise StoreUnavailable(_GIVEN_UP)
        return [
            claim if isinstance(claim, StoreDamaged) or claim.body == _digest(attempt.body) else _other_body()
            for attempt, claim in zip(attempts, claims, strict=True)
        ]

    def claim_anew(self, claim: Claim, make_id: Callable[[], str]) -> Claim:
        """What takes the place of a claim whose id is known to lead nowhere, now and for ever. All agree on it."""
        turn = claim.turn + 1
        name = f"{claim.name.partition('.')[0]}.{turn}"
        id_ = make_id()
        if self._point(f"{claim.body} {id_}", name):
            fresh = Claim(id_, is_new=True, body=claim.body, name=name, turn=turn)
        elif found := self._look(name):
            fresh = found._replace(turn=turn)
        else:
            raise StoreUnavailable(_GIVEN_UP)
        self._make_last([fresh])
        return fresh

    def clear(self, now: datetime) -> bool:
        """Removes days that nobody looks at any more. True: there may be more than one call removes."""
        kept_from = _day_name(now - 2 * _DAY)  # a day longer than needed: whoever is at it may be a little behind
        removed = 0
        for day in sorted(name for name in self._disk.names("idempotency") if name < kept_from):
            folder = f"idempotency/{day}"
            for name in self._disk.some_names(folder, CLEARED_TOGETHER - removed):
                self._disk.remove(f"{folder}/{name}")
                removed += 1
            self._disk.remove_folder_if_empty(folder)
            if removed >= CLEARED_TOGETHER:
                return True
        return False

    def _claim(self, attempt: Attempt, make_id: Callable[[], str], now: datetime) -> Claim | StoreDamaged:
        try:
            return self._found_or_made(attempt, make_id, now)
        except StoreDamaged as error:  # of this one; the others of its batch are well
            return error

    def _found_or_made(self, attempt: Attempt, make_id: Callable[[], str], now: datetime) -> Claim:
        key = _hash(attempt)
        yesterday, today, tomorrow = (f"idempotency/{_day_name(now + days * _DAY)}/{key}" for days in (-1, 0, 1))
        # Tomorrow's is that of a clock that is ahead; its mark that today is closed may be lost in a power cut.
        for name in (yesterday, today, tomorrow):
            if found := self._look(name):
                return found
        id_, body = make_id(), _digest(attempt.body)
        for name, text in ((yesterday, _CLOSED), (today, f"{body} {id_}"), (tomorrow, f"{body} {id_}")):
            if self._point(text, name):
                if text is not _CLOSED:
                    return Claim(id_, is_new=True, body=body, name=name)
            elif found := self._look(name):
                return found
        raise StoreUnavailable("the clocks of those who use this store differ by days")

    def _look(self, name: str) -> Claim | None:
        text = self._disk.pointed(name)
        if text is None or text == _CLOSED:
            return None
        body, _, id_ = text.partition(" ")
        if not id_:
            raise StoreDamaged(f"{name} does not hold a claim")
        return Claim(id_, is_new=False, body=body, name=name)

    def _point(self, text: str, name: str) -> bool:
        self._disk.make_folder(_folder_of(name))
        return self._disk.point(text, name)

    def _make_last(self, claims: Sequence[Claim]) -> None:
        """Those of others too: whoever wrote one may not have come to that."""
        for folder in dict.fromkeys(_folder_of(claim.name) for claim in claims):
            self._disk.make_folder(folder)
            self._disk.sync_folder(folder)


def _hash(attempt: Attempt) -> str:
    scope = msgspec.json.encode([attempt.caller, attempt.route, attempt.key])
    return hashlib.sha256(scope).hexdigest()[:32]


def _day_name(at: datetime) -> str:
    return f"{at:%Y%m%d}"


def _folder_of(name: str) -> str:
    return name[: name.rindex("/")]


def _digest(body: bytes) -> str:
    """22 characters, so that a claim on a UUID fits into the inode of its link on ext4 and takes no block."""
    return urlsafe_b64encode(hashlib.sha256(body).digest()[:16]).decode().rstrip("=")


def _other_body() -> InvalidInput:
    return InvalidInput(FieldError(HEADER, "this key was used with another body; a new request needs a new key"))
