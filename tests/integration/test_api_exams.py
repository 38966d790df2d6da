"""Exams over REST, on a real store and a real Redis, with a clock turned by hand."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from api.keys import Scope
from shared.broker.record import pack_id
from shared.broker.states import Reason, State
from shared.clock import rfc3339
from shared.exams.pk import is_pk, new_pk
from shared.redis_keys import RedisKeys
from tests.support.api import Api, Request, messages_of, problem_of, settings_in
from tests.support.clock import NOON, ManualClock
from tests.support.exam_files import present
from tests.support.redis_server import PrivateRedis

HOUR_MS = 60 * 60 * 1000
MARGIN_MS = 500


@pytest.fixture
def api(tmp_path: Path, redis_server: PrivateRedis, clock: ManualClock) -> Iterator[Api]:
    with Api(settings_in(tmp_path, redis_server.url), clock) as api:
        yield api


@pytest.fixture
def api_with_margin(tmp_path: Path, redis_server: PrivateRedis, clock: ManualClock) -> Iterator[Api]:
    """As on several hosts, whose clocks may differ."""
    with Api(settings_in(tmp_path, redis_server.url, SETTLE_MARGIN_MS=str(MARGIN_MS)), clock) as api:
        yield api


@pytest.fixture
def api_today(tmp_path: Path, redis_server: PrivateRedis) -> Iterator[Api]:
    """Its clock begins at the true time, which is Redis's: for what depends on when a task is due."""
    with Api(settings_in(tmp_path, redis_server.url), present()) as api:
        yield api


def at(seconds: float) -> str:
    """An instant so many seconds after the clock's first, as JSON has it."""
    return rfc3339(NOON + timedelta(seconds=seconds))


def read(api: Api, pk: str) -> dict[str, Any]:
    answer = api.call("GET", f"/v1/exams/{pk}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json)


def events(api: Api, pk: str) -> list[dict[str, Any]]:
    answer = api.call("GET", f"/v1/exams/{pk}/events")
    assert answer.status_code == 200, answer.text
    assert answer.json["next_cursor"] is None
    return list(answer.json["items"])


def result_request(pk: str, status: str) -> Request:
    return Request("PUT", f"/v1/exams/{pk}/result", {"status": status})


# starting


def test_an_exam_starts_without_a_body(api: Api) -> None:
    """201 with where it is, every field, null where there is nothing, and the default 120 s."""
    answer = api.call("POST", "/v1/exams")
    exam = answer.json
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/exams/{exam['pk']}"
    assert answer.headers["content-type"] == "application/json"
    assert is_pk(exam["pk"])
    assert exam == {
        "pk": exam["pk"],
        "status": "started",
        "candidate": None,
        "title": None,
        "duration_s": 120,
        "started_at": at(0),
        "deadline_at": at(120),
        "ended_at": None,
        "recorded_at": None,
        "reason": None,
        "version": 1,
        "task_id": f"{exam['pk']}.1",
        "server_now": at(0),
        "seconds_remaining": 120,
    }
    assert read(api, exam["pk"]) == exam


def test_a_candidate_and_a_title_are_kept_as_they_are(api: Api) -> None:
    """Any script, up to 200 characters each."""
    exam = api.start(candidate="Zoë Ångström 王", title="é" * 200)
    kept = read(api, exam["pk"])
    assert (kept["candidate"], kept["title"]) == ("Zoë Ångström 王", "é" * 200)


def test_null_is_the_same_as_left_out(api: Api) -> None:
    """For clients that always send all fields."""
    exam = api.start(candidate=None, title=None, duration_s=None)
    assert (exam["candidate"], exam["title"], exam["duration_s"]) == (None, None, 120)


@pytest.mark.parametrize(
    ("given", "duration_s"),
    [(1, 1), (1.0, 1), (90, 90), (2.5, 2.5), (1.001, 1.001), (1.0004, 1), (604_800, 604_800), (6048e2, 604_800)],
)
def test_a_duration_may_be_whole_or_fractional(api: Api, given: float, duration_s: float) -> None:
    """From 1 s to 7 days, to the millisecond."""
    exam = api.start(duration_s=given)
    assert exam["duration_s"] == duration_s
    assert exam["deadline_at"] == at(duration_s)


def test_the_default_duration_is_a_setting(tmp_path: Path, redis_server: PrivateRedis, clock: ManualClock) -> None:
    """INVIGIL_EXAM_SECONDS, fractional where it is."""
    with Api(settings_in(tmp_path, redis_server.url, EXAM_SECONDS="0.5"), clock) as api:
        assert api.start()["duration_s"] == 0.5


def test_a_start_enqueues_the_task_of_its_deadline(api_today: Api) -> None:
    """In the exams queue, under the id that the exam tells; due at the deadline, to the millisecond."""
    exam = api_today.start(duration_s=90)
    ((message, due_at),) = api_today.tasks.due("exams")
    assert (message.actor_name, message.message_id, list(message.args), rfc3339(due_at)) == (
        "mark_absent",
        exam["task_id"],
        [exam["pk"]],
        exam["deadline_at"],
    )


def test_exams_started_together_are_all_stored(api: Api) -> None:
    """Written as a batch, each is answered with its own."""
    requests = [Request("POST", "/v1/exams", {"candidate": f"candidate {number}"}) for number in range(100)]
    exams = [timed.answer.json for timed in api.call_together(requests)]
    assert [exam["candidate"] for exam in exams] == [f"candidate {number}" for number in range(100)]
    assert all(read(api, exam["pk"]) == exam for exam in exams)


# results


@pytest.mark.parametrize("status", ["pass", "fail"])
def test_a_result_ends_the_exam(api: Api, clock: ManualClock, status: str) -> None:
    """200 with the final exam, which is what readers see from then on."""
    pk = api.start(candidate="Ada")["pk"]
    clock.move(seconds=30.5)
    answer = api.call("PUT", f"/v1/exams/{pk}/result", {"status": status})
    assert answer.status_code == 200
    assert answer.json == read(api, pk)
    exam = answer.json
    assert (exam["status"], exam["ended_at"], exam["recorded_at"]) == (status, at(30.5), at(30.5))
    assert (exam["version"], exam["reason"], exam["seconds_remaining"], exam["candidate"]) == (2, None, 0, "Ada")


def test_a_result_cancels_the_task_of_the_deadline(api_today: Api, redis_server: PrivateRedis) -> None:
    """It is gone from its queue; that it was cancelled is known for an hour longer than it would have waited."""
    exam = api_today.start()
    api_today.call("PUT", f"/v1/exams/{exam['pk']}/result", {"status": "pass"})
    assert (api_today.tasks.ready("exams"), api_today.tasks.due("exams")) == ([], [])
    known = api_today.services.broker.engine.look_up(exam["task_id"])
    assert (known.state, known.reason) == (State.REVOKED, Reason.CANCELLED)
    lives_ms = redis_server.client().pttl(RedisKeys("invigil").key("ended", pack_id(exam["task_id"])))
    assert lives_ms == pytest.approx(120_000 + HOUR_MS, abs=10_000)


def test_the_same_result_again_is_answered_the_same(api: Api, clock: ManualClock) -> None:
    """A client that got no answer may ask again, even after the deadline; nothing is written twice."""
    pk = api.start()["pk"]
    first = api.call("PUT", f"/v1/exams/{pk}/result", {"status": "fail"}).json
    clock.move(seconds=500)
    again = api.call("PUT", f"/v1/exams/{pk}/result", {"status": "fail"})
    assert again.status_code == 200
    assert again.json == first | {"server_now": at(500)}
    assert len(events(api, pk)) == 2


def test_another_result_is_refused_with_the_exam(api: Api) -> None:
    """409 with the exam as it stands, which does not change."""
    pk = api.start()["pk"]
    ended = api.call("PUT", f"/v1/exams/{pk}/result", {"status": "pass"}).json
    problem = problem_of(api.call("PUT", f"/v1/exams/{pk}/result", {"status": "fail"}), 409, "exam-conflict")
    assert problem["detail"] == "the exam has ended already: pass"
    assert problem["exam"] == ended == read(api, pk)


def test_two_results_at_once_have_one_winner(api: Api) -> None:
    """One is final and answered 200, every other gets 409 and the same exam."""
    pk = api.start()["pk"]
    answers = [timed.answer for timed in api.call_together([result_request(pk, s) for s in ("pass", "fail") * 8])]
    status = read(api, pk)["status"]
    assert [answer.status_code for answer in answers] == [200 if s == status else 409 for s in ("pass", "fail") * 8]
    assert {answer.json["exam"]["status"] for answer in answers if answer.status_code == 409} == {status}
    assert len(events(api, pk)) == 2


def test_a_result_in_the_last_millisecond_counts(api: Api, clock: ManualClock) -> None:
    """The deadline is the first instant that is too late."""
    pk = api.start()["pk"]
    clock.move(seconds=119.999)
    answer = api.call("PUT", f"/v1/exams/{pk}/result", {"status": "pass"})
    assert (answer.status_code, answer.json["ended_at"]) == (200, at(119.999))


def test_a_result_at_the_deadline_is_too_late(api: Api, clock: ManualClock) -> None:
    """409; the exam in it is absent, and is stored so."""
    pk = api.start()["pk"]
    clock.move(seconds=120)
    problem = problem_of(api.call("PUT", f"/v1/exams/{pk}/result", {"status": "pass"}), 409, "exam-conflict")
    assert problem["detail"] == "the exam has ended already: absent"
    assert (problem["exam"]["status"], problem["exam"]["ended_at"]) == ("absent", at(120))
    assert [event["event"] for event in events(api, pk)] == ["started", "ended"]


def test_a_late_result_within_the_settle_margin_decides_nothing(api_with_margin: Api, clock: ManualClock) -> None:
    """Too late is too late, but no exam is absent before the margin is over: 409 with a started exam, 0 s left."""
    pk = api_with_margin.start()["pk"]
    for late_ms in (0, MARGIN_MS - 1):
        clock.set(NOON + timedelta(seconds=120, milliseconds=late_ms))
        answer = api_with_margin.call("PUT", f"/v1/exams/{pk}/result", {"status": "pass"})
        problem = problem_of(answer, 409, "exam-conflict")
        assert problem["detail"] == "the result came after the deadline"
        assert (problem["exam"]["status"], problem["exam"]["seconds_remaining"]) == ("started", 0)
        assert (read(api_with_margin, pk)["status"], len(events(api_with_margin, pk))) == ("started", 1)
    clock.move(milliseconds=1)
    answer = api_with_margin.call("PUT", f"/v1/exams/{pk}/result", {"status": "pass"})
    assert problem_of(answer, 409, "exam-conflict")["exam"]["status"] == "absent"


def test_an_unknown_exam_is_not_found(api: Api) -> None:
    """404 naming the field, on all three of its addresses."""
    pk = new_pk(NOON)
    for method, path, body in (
        ("GET", f"/v1/exams/{pk}", None),
        ("GET", f"/v1/exams/{pk}/events", None),
        ("PUT", f"/v1/exams/{pk}/result", {"status": "pass"}),
    ):
        problem = problem_of(api.call(method, path, body), 404, "exam-not-found")
        assert messages_of(problem) == {"pk": "no exam has this pk"}


# reading


def test_an_exam_is_settled_by_whoever_reads_it_at_its_deadline(api: Api, clock: ManualClock) -> None:
    """Started and 1 ms left at 119.999 s, absent at 120.000 s, worker or no worker."""
    pk = api.start()["pk"]
    clock.move(seconds=119.999)
    before = read(api, pk)
    assert (before["status"], before["seconds_remaining"], before["version"]) == ("started", 0.001, 1)
    clock.move(milliseconds=1)
    after = read(api, pk)
    assert (after["status"], after["seconds_remaining"], after["version"]) == ("absent", 0, 2)
    assert (after["ended_at"], after["recorded_at"]) == (at(120), at(120))
    assert after["reason"] == "no result arrived before the deadline"


def test_an_absence_ends_at_the_deadline_whenever_it_is_recorded(api: Api, clock: ManualClock) -> None:
    """Who reads an hour late sees the same end, and when it was written down."""
    pk = api.start()["pk"]
    clock.move(hours=1)
    assert (read(api, pk)["ended_at"], read(api, pk)["recorded_at"]) == (at(120), at(3600))


def test_the_events_tell_what_happened(api: Api, clock: ManualClock) -> None:
    """Numbered, in order, with the fields of their kind."""
    pk = api.start(candidate="Ada", title="Logic")["pk"]
    clock.move(seconds=5)
    api.call("PUT", f"/v1/exams/{pk}/result", {"status": "pass"})
    assert events(api, pk) == [
        {
            "number": 1,
            "event": "started",
            "recorded_at": at(0),
            "candidate": "Ada",
            "title": "Logic",
            "started_at": at(0),
            "deadline_at": at(120),
        },
        {
            "number": 2,
            "event": "ended",
            "recorded_at": at(5),
            "status": "pass",
            "ended_at": at(5),
            "reason": None,
        },
    ]


def test_reading_the_events_settles_too(api: Api, clock: ManualClock) -> None:
    """No reader is told that an overdue exam is running."""
    pk = api.start()["pk"]
    clock.move(seconds=120)
    assert [event["event"] for event in events(api, pk)] == ["started", "ended"]


# lists


def listed(api: Api, query: str = "") -> list[str]:
    """The candidates of a list of one page, newest first."""
    answer = api.call("GET", f"/v1/exams{query}")
    assert answer.status_code == 200, answer.text
    assert answer.json["next_cursor"] is None
    return [exam["candidate"] for exam in answer.json["items"]]


@pytest.fixture
def four_exams(api: Api, clock: ManualClock) -> Api:
    """A passes, B fails, C is absent, D runs; a minute between their starts, and a second one of A runs as well."""
    for candidate, status, duration_s in (("A", "pass", 600), ("B", "fail", 600), ("C", None, 60), ("D", None, 600)):
        pk = api.start(candidate=candidate, duration_s=duration_s)["pk"]
        if status:
            api.call("PUT", f"/v1/exams/{pk}/result", {"status": status})
        clock.move(minutes=1)
    api.start(candidate="A", duration_s=600)
    return api


def test_a_list_has_the_newest_first(four_exams: Api) -> None:
    """Whole exams, as each would be read alone."""
    assert listed(four_exams) == ["A", "D", "C", "B", "A"]
    exams = four_exams.call("GET", "/v1/exams").json["items"]
    assert exams == [read(four_exams, exam["pk"]) for exam in exams]


@pytest.mark.parametrize(
    ("query", "candidates"),
    [
        ("?status=started", ["A", "D"]),
        ("?status=pass", ["A"]),
        ("?status=fail", ["B"]),
        ("?status=absent", ["C"]),
        ("?candidate=A", ["A", "A"]),
        ("?candidate=nobody", []),
        ("?candidate=A&status=started", ["A"]),
        (f"?started_from={at(60)}", ["A", "D", "C", "B"]),
        (f"?started_to={at(60)}", ["A"]),
        (f"?started_from={at(60)}&started_to={at(180)}", ["C", "B"]),
        (f"?started_from={at(60.001)}&started_to={at(180.001)}", ["D", "C"]),
        ("?started_from=2026-11-20T13:04:00%2B01:00", ["A"]),
        (f"?started_from={at(60)}&candidate=A", ["A"]),
        (f"?started_from={at(180)}&started_to={at(60)}", []),
        ("?limit=200", ["A", "D", "C", "B", "A"]),
    ],
)
def test_a_list_can_be_narrowed(four_exams: Api, query: str, candidates: list[str]) -> None:
    """By status, candidate and start: from, including it, up to, leaving it out; all of them together."""
    assert listed(four_exams, query) == candidates


def test_listing_settles_what_is_overdue(api: Api, clock: ManualClock) -> None:
    """In no list does an exam run beyond its deadline."""
    api.start(candidate="late")
    clock.move(seconds=119.999)
    assert (listed(api, "?status=started"), listed(api, "?status=absent")) == (["late"], [])
    clock.move(milliseconds=1)
    assert (listed(api, "?status=started"), listed(api, "?status=absent")) == ([], ["late"])


def test_a_list_is_read_page_by_page(api: Api, clock: ManualClock) -> None:
    """Each exam is on one page, also when new ones start in between."""
    for number in range(5):
        api.start(candidate=str(number))
        clock.move(seconds=1)
    pages, cursor = [], None
    while True:
        page = api.call("GET", f"/v1/exams?limit=2{f'&cursor={cursor}' if cursor else ''}").json
        pages.append([exam["candidate"] for exam in page["items"]])
        api.start(candidate="newer")
        if (cursor := page["next_cursor"]) is None:
            break
    assert pages == [["4", "3"], ["2", "1"], ["0"]]


def test_no_exams_is_an_empty_list(api: Api) -> None:
    """Not an error, and no cursor."""
    assert api.call("GET", "/v1/exams").json == {"items": [], "next_cursor": None}


# who may

CALLS: list[tuple[str, str, object, Scope]] = [
    ("POST", "/v1/exams", {}, "exams:write"),
    ("GET", "/v1/exams", None, "exams:read"),
    ("GET", "/v1/exams/{pk}", None, "exams:read"),
    ("GET", "/v1/exams/{pk}/events", None, "exams:read"),
    ("PUT", "/v1/exams/{pk}/result", {"status": "pass"}, "exams:write"),
    ("POST", "/v1/messages", {"message": "hello"}, "tasks:write"),
]
ALL_BUT_ADMIN: set[Scope] = {"exams:read", "exams:write", "tasks:read", "tasks:write"}


def key_with(api: Api, *scopes: Scope) -> str:
    return api.keys.new("scoped", scopes, NOON, lifetime=None)


@pytest.mark.parametrize(("method", "path", "body", "scope"), CALLS)
def test_each_call_needs_its_scope(api: Api, method: str, path: str, body: object, scope: Scope) -> None:
    """Its own or admin; with all others it is 403, and the answer names what is missing."""
    target = path.format(pk=api.start()["pk"])
    before = api.state()
    refused = api.call(method, target, body, key=key_with(api, *(ALL_BUT_ADMIN - {scope})))
    assert problem_of(refused, 403, "not-authorised")["detail"] == f"this API key lacks the scope {scope}"
    assert api.state() == before
    assert api.call(method, target, body, key=key_with(api, scope)).status_code < 300
    assert api.call(method, target, body, key=key_with(api, "admin")).status_code < 300


@pytest.mark.parametrize(("method", "path", "body", "scope"), CALLS)
def test_each_call_needs_a_key(api: Api, method: str, path: str, body: object, scope: Scope) -> None:
    """401 says how to send one; a revoked and an expired key are refused like an unknown one."""
    target = path.format(pk=api.start()["pk"])
    revoked = key_with(api, scope)
    api.keys.revoke(revoked.split("_")[1], NOON)
    expired = api.keys.new("expired", (scope,), NOON - timedelta(days=1), timedelta(days=1))
    before = api.state()
    for key in (None, "ik_unknown", revoked, expired):
        answer = api.call(method, target, body, key=key)
        problem = problem_of(answer, 401, "not-authenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert ("send an API key as" in problem["detail"]) is (key is None)
    assert api.state() == before


# what is at no address


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/exams", "/v1/exam", "/v1/exams/x/y", "/admin", "//"])
def test_an_unknown_address_is_not_found(api: Api, path: str) -> None:
    """404, a problem like all others, with a key and without."""
    for key in ("", None):
        problem = problem_of(api.call("GET", path, key=key), 404, "route-not-found")
        assert problem["detail"] == "there is nothing at this address"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/exams", {"GET", "POST", "OPTIONS"}),
        ("PUT", "/v1/exams", {"GET", "POST", "OPTIONS"}),
        ("HEAD", "/v1/exams", {"GET", "POST", "OPTIONS"}),
        ("DELETE", "/v1/exams/{pk}", {"GET", "OPTIONS"}),
        ("PATCH", "/v1/exams/{pk}", {"GET", "OPTIONS"}),
        ("POST", "/v1/exams/{pk}/result", {"PUT", "OPTIONS"}),
        ("GET", "/v1/messages", {"POST", "OPTIONS"}),
        ("POST", "/readyz", {"GET", "OPTIONS"}),
    ],
)
def test_a_method_that_an_address_does_not_take_is_refused(api: Api, method: str, path: str, allowed: set[str]) -> None:
    """405, and the Allow header lists those it takes."""
    answer = api.call(method, path.format(pk=api.start()["pk"]))
    assert answer.status_code == 405
    assert {name.strip() for name in answer.headers["allow"].split(",")} == allowed
    if method != "HEAD":
        assert "the Allow header" in problem_of(answer, 405, "method-not-allowed")["detail"]
