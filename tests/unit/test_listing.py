"""The query string of the list of exams, and its cursor."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from api.listing import EXAMS_QUERY, cursor, wanted
from shared.errors import InvalidInput
from shared.exams.model import Status
from shared.exams.pk import new_pk
from shared.exams.register import ListQuery, Page
from tests.support.clock import NOON


def list_query(parameters: Mapping[str, str]) -> ListQuery:
    return wanted(EXAMS_QUERY.parse(parameters))


def refused(**parameters: str) -> dict[str, str]:
    """What is said of each bad parameter."""
    with pytest.raises(InvalidInput) as caught:
        list_query(parameters)
    return {error.field: error.message for error in caught.value.errors}


def test_nothing_asked_for_is_the_newest_fifty() -> None:
    """Every parameter may be left out."""
    assert list_query({}) == ListQuery(limit=50)


def test_all_parameters_together() -> None:
    """Each is read as what it is; instants are turned to UTC."""
    pk = new_pk(NOON)
    wanted = list_query(
        {
            "status": "absent",
            "candidate": "Zoë",
            "started_from": "2026-11-20T11:00:00Z",
            "started_to": "2026-11-20T13:30:00.500+01:00",
            "limit": "200",
            "cursor": str(cursor(Page([], pk))),
        }
    )
    assert wanted == ListQuery(
        status=Status.ABSENT,
        candidate="Zoë",
        started_from=datetime(2026, 11, 20, 11, tzinfo=UTC),
        started_to=datetime(2026, 11, 20, 12, 30, 0, 500_000, tzinfo=UTC),
        before=pk,
        limit=200,
    )


def test_the_last_page_has_no_cursor() -> None:
    """A client that follows cursors comes to an end."""
    assert cursor(Page([], None)) is None


@pytest.mark.parametrize("text", ["", "0", "201", "-1", "+1", "1.0", "ten", "1e2", " 1", "0x1", "9" * 400, "٣"])
def test_a_limit_is_a_number_from_1_to_200(text: str) -> None:
    """In plain digits; nothing is rounded or cut."""
    assert refused(limit=text) == {"limit": "must be a whole number from 1 to 200"}


@pytest.mark.parametrize("text", ["", "PASS", "passed", "started,pass", "None"])
def test_a_status_is_one_of_four(text: str) -> None:
    """And the message names them."""
    assert refused(status=text) == {"status": "must be one of started, pass, fail, absent"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-20",
        "2026-11-20T10:45:00",
        "2026-11-20T10:45:00 01:00",
        "2026-13-20T10:45:00Z",
        "1700000000",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "10000-01-01T00:00:00Z",
    ],
)
@pytest.mark.parametrize("name", ["started_from", "started_to"])
def test_an_instant_has_a_date_a_time_and_an_offset(name: str, text: str) -> None:
    """Also one that its offset moves out of the years 1 to 9999 is refused."""
    message = "must be an instant such as 2026-11-20T10:45:00Z (a + in an offset is written %2B)"
    assert refused(**{name: text}) == {name: message}


@pytest.mark.parametrize(
    "text", ["", "x", "A" * 21, "A" * 22, "A" * 23, "é" * 22, "=" * 22, "../../../../etc/passwd", "%00"]
)
def test_a_cursor_comes_from_an_earlier_answer(text: str) -> None:
    """Anything else, a UUID of another version included, is refused."""
    assert refused(cursor=text) == {"cursor": "must be the next_cursor of an earlier answer"}


@pytest.mark.parametrize("text", ["", "a" * 201, "a\0b", "a\nb", "a\u2028b", "\x7f"])
def test_a_candidate_is_one_line(text: str) -> None:
    """The same rule as at the start of an exam, so that whoever could start can be found."""
    assert list(refused(candidate=text)) == ["candidate"]


def test_all_bad_parameters_are_named_at_once() -> None:
    """A client repairs its request in one go."""
    assert list(refused(status="x", limit="x", cursor="x")) == ["status", "cursor", "limit"]
