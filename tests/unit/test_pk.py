"""Exam keys."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from shared.exams.pk import first_pk_of, is_pk, new_pk
from tests.support.clock import NOON


def test_a_pk_is_a_version_7_uuid_that_carries_its_start() -> None:
    """RFC 9562: version 7, variant 10, the first 48 bits are the milliseconds since 1970."""
    pk = uuid.UUID(new_pk(NOON))
    assert (pk.version, pk.variant) == (7, uuid.RFC_4122)
    assert datetime.fromtimestamp((pk.int >> 80) / 1000, UTC) == NOON


def test_pks_of_one_instant_differ() -> None:
    """74 bits of chance keep exams apart that start in the same millisecond."""
    assert len({new_pk(NOON) for _ in range(1000)}) == 1000


def test_the_first_pk_of_an_instant_separates_earlier_from_later() -> None:
    """A list from an instant on leaves out what started a millisecond before it."""
    before, at = new_pk(NOON - timedelta(milliseconds=1)), new_pk(NOON)
    assert before < first_pk_of(NOON) < at


@pytest.mark.parametrize(
    "text",
    [
        "",
        "01a1f89a-97b6-7c9e-8bff-51e5c4aec64",
        "01A1F89A-97B6-7C9E-8BFF-51E5C4AEC644",
        "01a1f89a-97b6-4c9e-8bff-51e5c4aec644",
        "01a1f89a-97b6-7c9e-cbff-51e5c4aec644",
        "01a1f89a97b67c9e8bff51e5c4aec644",
        "ffffffff-ffff-7c9e-8bff-51e5c4aec644",
        "../../../../../../../../etc/passwd",
        "01a1f89a-97b6-7c9e-8bff-51e5c4aec644\n",
        "x" * 3000,
    ],
)
def test_only_the_canonical_spelling_is_a_pk(text: str) -> None:
    """Everything else, a time beyond the year 9999 included, names no exam."""
    assert not is_pk(text)
