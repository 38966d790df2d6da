"""Bad input over REST: always a 4xx problem that names what is wrong, and nothing has changed."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from falcon.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from run import redis_program
from shared.exams.pk import new_pk
from tests.support.api import Api, messages_of, problem_of, settings_in
from tests.support.clock import NOON, ManualClock
from tests.support.redis_server import PrivateRedis

BODY_LIMIT = 64 * 1024
BRACKETS = 60_000  # fit into a body; 100,000 are refused for their size alone

LINE = "must be one line of 1 to 200 characters, none of them a control character, or null"
DURATION = "must be a number of seconds from 1 to 604800, or null"
MESSAGE = "must be a text of 1 to 10000 characters"
STATUS = 'must be "pass" or "fail"'
OBJECT = "must be a JSON object"
ONCE = "give this field once"
NO_SUCH_FIELD = "there is no such field; allowed are: candidate, title, duration_s"


@pytest.fixture(scope="module")
def redis() -> Iterator[PrivateRedis]:
    """One kind is enough: what is refused here never gets that far."""
    server = PrivateRedis(redis_program())
    yield server
    server.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, redis: PrivateRedis) -> Iterator[Api]:
    with Api(settings_in(tmp_path_factory.mktemp("api"), redis.url), ManualClock()) as api:
        yield api


@pytest.fixture(scope="module")
def pk(api: Api) -> str:
    """Of a running exam, which all of this must leave as it is."""
    return str(api.start(candidate="Ada")["pk"])


def refused(api: Api, method: str, path: str, body: bytes | None = None, **headers: str) -> Result:
    """The answer to a call that must not change anything."""
    before = api.state()
    answer = api.call(method, path, body=body, headers={name.replace("_", "-"): text for name, text in headers.items()})
    assert api.state() == before
    return answer


def names(count: int, name: Callable[[int], str]) -> bytes:
    return b"{%s}" % b",".join(b'"%s":1' % name(number).encode() for number in range(count))


def nested(opening: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + closing * depth


# not JSON

NOT_JSON = [
    b"{",
    b'{"candidate":"x"',
    b'{"candidate":"x",}',
    b"{'candidate':'x'}",
    b'{"candidate":"x"} {}',
    b'{"candidate":"x"}\0',
    b'/**/{"candidate":"x"}',
    b"candidate=x",
    b"nul",
    b" ",
    b"\0",
    b"\xef\xbb\xbf{}",
    '{"candidate":"x"}'.encode("utf-16"),
    b'{"candidate":"\xff"}',
    b'{"\xc3\x28":1}',
    b'{"candidate":"\xed\xa0\x80"}',
    b'{"candidate":"\\ud800"}',
    b'{"candidate":"\\udc00\\ud800"}',
    b'{"candidate":"\\ud800 and more text behind it"}',
    b'{"candidate":"a\nb"}',
    b'{"candidate":"a\0b"}',
    b'{"candidate":"\\x41"}',
    b'{"duration_s":NaN}',
    b'{"duration_s":Infinity}',
    b'{"duration_s":-Infinity}',
    b'{"duration_s":010}',
    b'{"duration_s":0x10}',
    b'{"duration_s":+5}',
    b'{"duration_s":5.}',
    b'{"duration_s":.5}',
    b'{"duration_s":1e}',
]


@pytest.mark.parametrize("body", NOT_JSON)
def test_a_body_that_is_not_json_is_refused(api: Api, body: bytes) -> None:
    """400; lone surrogates, NaN and Infinity are no JSON either."""
    answer = refused(api, "POST", "/v1/exams", body)
    assert problem_of(answer, 400, "bad-request")["detail"].startswith("the body is not JSON in UTF-8: ")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/exams/{pk}/result"])
@pytest.mark.parametrize("body", [b"{", b"\xff", b"NaN"])
def test_all_calls_with_a_body_refuse_what_is_not_json(api: Api, pk: str, path: str, body: bytes) -> None:
    """The same answer wherever a body is sent."""
    answer = refused(api, "PUT" if path.endswith("result") else "POST", path.format(pk=pk), body)
    assert problem_of(answer, 400, "bad-request")["detail"].startswith("the body is not JSON in UTF-8: ")


@pytest.mark.parametrize(("method", "path"), [("PUT", "/v1/exams/{pk}/result"), ("POST", "/v1/messages")])
def test_a_missing_body_is_asked_for(api: Api, pk: str, method: str, path: str) -> None:
    """400 that says so, whatever the content type."""
    for headers in ({}, {"Content_Type": "application/json"}):
        problem = problem_of(refused(api, method, path.format(pk=pk), None, **headers), 400, "bad-request")
        assert problem["detail"] == "this call needs a body, sent as Content-Type: application/json"


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (b"[" * BRACKETS, "body", OBJECT),
        (nested(b"[", b"]", BRACKETS // 2), "body", OBJECT),
        (b'{"candidate":' + b"[" * BRACKETS, "candidate", LINE),
        (b'{"duration_s":' + nested(b"[", b"]", BRACKETS // 2) + b"}", "duration_s", DURATION),
        (b'{"unknown":' + b"[" * BRACKETS, "unknown", NO_SUCH_FIELD),
        (b'{"unknown":' + nested(b"[", b"]", BRACKETS // 2) + b"}", "unknown", NO_SUCH_FIELD),
        (b'{"a":' * (BRACKETS // 5), "a", NO_SUCH_FIELD),
    ],
    ids=["open", "closed", "in a text", "in a number", "unknown open", "unknown closed", "objects"],
)
def test_a_deep_body_is_refused_like_any_other(api: Api, body: bytes, field: str, message: str) -> None:
    """60,000 brackets are read no further than to the first that is out of place."""
    assert messages_of(problem_of(refused(api, "POST", "/v1/exams", body), 422, "invalid-input")) == {field: message}


# too large


@pytest.mark.parametrize("size", [BODY_LIMIT + 1, 100_000, 1024 * 1024, 1024 * 1024 + 1, 3 * 1024 * 1024])
@pytest.mark.parametrize("filling", [b" ", b"["])
def test_a_body_over_the_limit_is_refused(api: Api, pk: str, size: int, filling: bytes) -> None:
    """413 with the limit, 100,000 brackets included."""
    for method, path in (("POST", "/v1/exams"), ("POST", "/v1/messages"), ("PUT", f"/v1/exams/{pk}/result")):
        problem = problem_of(refused(api, method, path, filling * size), 413, "content-too-large")
        assert problem["detail"] == "a body may hold 65536 bytes"


def test_a_body_at_the_limit_is_read(api: Api) -> None:
    """The last byte that is allowed is."""
    assert api.call("POST", "/v1/exams", body=b"{}".ljust(BODY_LIMIT)).status_code == 201


# JSON of the wrong shape

NOT_OBJECTS = [b"[]", b"null", b"5", b"true", b'"x"', b"[{}]"]
NO_TEXT = [b"1", b"1.5", b"true", b"[]", b"{}", b'["x"]']
NO_NUMBER = [b'"10"', b'""', b"true", b"false", b"[]", b"{}", b"[10]"]
NO_DURATION = [
    *(b"0", b"-0", b"-1", b"0.9996", b"604800.0001", b"604801", b"1e308", b"5e-324", b"1e400", b"-1e400", b"1e-400"),
    *(b"9" * 23, b"9" * 400, b"9" * 5_000, b"-" + b"9" * 5_000, b"1e99999999999999999999"),
]
NO_STATUS = [b'"passed"', b'"PASS"', b'"absent"', b'"started"', b'""', b"null", b"true", b"1", b"[]", b"{}"]
NO_LINE = ['"\\u0000"', '"a\\nb"', '"\\u007f"', '"\\u0085"', '"\\u2028"', '"\\u2029"', '"\\u001b[31m"']


def in_field(name: str, values: list[bytes], message: str) -> list[tuple[bytes, str, str]]:
    return [(b'{"%s":%s}' % (name.encode(), value), name, message) for value in values]


BAD_STARTS = [
    *[(body, "body", OBJECT) for body in NOT_OBJECTS],
    *in_field("candidate", NO_TEXT, LINE),
    *in_field("title", NO_TEXT, LINE),
    *in_field("duration_s", NO_NUMBER + NO_DURATION, DURATION),
    *in_field("candidate", [b'""', b'"%s"' % (b"x" * 201), b'"%s"' % ("é" * 201).encode()], LINE),
    *in_field("title", [b'""', b'"%s"' % (b"x" * 60_000)], LINE),
    *in_field("candidate", [text.encode() for text in NO_LINE], LINE),
    *in_field("title", [text.encode() for text in NO_LINE], LINE),
    *[(b'{"%s":1}' % name, name.decode(), NO_SUCH_FIELD) for name in (b"pk", b"duration", b"Candidate", b"", b"a`b")],
    (b'{"%s":1}' % (b"x" * 3_000), "x" * 100, NO_SUCH_FIELD),
    (b'{"candidate":"a","candidate":"b"}', "candidate", ONCE),
    (b'{"duration_s":5,"title":"x","duration_s":5}', "duration_s", ONCE),
    (b'{"duration_s":5,"\\u0064uration_s":6}', "duration_s", ONCE),
]
BAD_RESULTS = [
    *[(body, "body", OBJECT) for body in NOT_OBJECTS],
    *in_field("status", NO_STATUS, STATUS),
    (b"{}", "status", 'this field is required: "pass" or "fail"'),
    (b'{"status":"pass","reason":"x"}', "reason", "there is no such field; allowed are: status"),
    (b'{"status":"pass","status":"fail"}', "status", ONCE),
]
BAD_MESSAGES = [
    *[(body, "body", OBJECT) for body in NOT_OBJECTS],
    *in_field("message", [*NO_TEXT, b"null", b'""', b'"%s"' % (b"x" * 10_001)], MESSAGE),
    (b"{}", "message", "this field is required: a text of 1 to 10000 characters"),
    (b'{"message":"x","delay":5}', "delay", "there is no such field; allowed are: message"),
    (b'{"message":"x","message":"y"}', "message", ONCE),
]


def shortened(value: object) -> str | None:
    return value[:40].decode("latin-1") if isinstance(value, bytes) else ""


@pytest.mark.parametrize(("body", "field", "message"), BAD_STARTS, ids=shortened)
def test_a_start_that_cannot_be_is_refused(api: Api, body: bytes, field: str, message: str) -> None:
    """422 names the field and what is allowed; nothing is turned into what it is not."""
    assert messages_of(problem_of(refused(api, "POST", "/v1/exams", body), 422, "invalid-input")) == {field: message}


@pytest.mark.parametrize(("body", "field", "message"), BAD_RESULTS, ids=shortened)
def test_a_result_that_cannot_be_is_refused(api: Api, pk: str, body: bytes, field: str, message: str) -> None:
    """422, and the exam goes on."""
    answer = refused(api, "PUT", f"/v1/exams/{pk}/result", body)
    assert messages_of(problem_of(answer, 422, "invalid-input")) == {field: message}


@pytest.mark.parametrize(("body", "field", "message"), BAD_MESSAGES, ids=shortened)
def test_a_message_that_cannot_be_is_refused(api: Api, body: bytes, field: str, message: str) -> None:
    """422, and no worker gets to see it."""
    answer = refused(api, "POST", "/v1/messages", body)
    assert messages_of(problem_of(answer, 422, "invalid-input")) == {field: message}


def test_all_bad_values_are_named_at_once(api: Api) -> None:
    """A client repairs its request in one go."""
    body = b'{"candidate":"","title":"a\\nb","duration_s":0.5}'
    problem = problem_of(refused(api, "POST", "/v1/exams", body), 422, "invalid-input")
    assert messages_of(problem) == {"candidate": LINE, "title": LINE, "duration_s": DURATION}
    assert problem["detail"] == f"candidate: {LINE}; title: {LINE}; duration_s: {DURATION}"


# content types


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/problem+json",
        "json",
        "ü",
    ],
)
def test_a_body_that_is_not_sent_as_json_is_refused(api: Api, pk: str, content_type: str) -> None:
    """415 says how to send it, also where the body itself would do."""
    for method, path, body in (
        ("POST", "/v1/exams", b"{}"),
        ("POST", "/v1/messages", b'{"message":"x"}'),
        ("PUT", f"/v1/exams/{pk}/result", b'{"status":"pass"}'),
    ):
        answer = refused(api, method, path, body, Content_Type=content_type)
        problem = problem_of(answer, 415, "unsupported-media-type")
        assert problem["detail"] == "send the body as Content-Type: application/json"


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON", "application/json; charset=utf-8"])
def test_json_may_be_announced_with_parameters(api: Api, content_type: str) -> None:
    """As many clients do."""
    assert api.call("POST", "/v1/exams", body=b"{}", headers={"Content-Type": content_type}).status_code == 201


# pks

NO_PKS = [
    "..",
    "%2e%2e",
    "..%5c..%5cetc%5cpasswd",
    "%00",
    "a%00b",
    "x",
    "*",
    "-",
    "x" * 3000,
    "%F0%9F%8E%93",
    "%ff",
    "{UPPER}",
    "{pk}%0a",
    "{pk}%00",
    "{pk}.1",
    "{pk}%20",
    "%20{pk}",
    "{plain}",
    "00000000-0000-4000-8000-000000000000",
    "ffffffff-ffff-7fff-bfff-ffffffffffff",
]


@pytest.mark.parametrize("template", NO_PKS, ids=lambda template: template[:40])
def test_a_malformed_pk_names_no_exam(api: Api, pk: str, template: str) -> None:
    """404 that says what a pk looks like, on each address that has one."""
    path = template.format(pk=pk, UPPER=pk.upper(), plain=pk.replace("-", ""))
    message = "a pk is a UUID of version 7, written in 36 characters, small letters; this is none"
    for method, target, body in (
        ("GET", f"/v1/exams/{path}", None),
        ("GET", f"/v1/exams/{path}/events", None),
        ("PUT", f"/v1/exams/{path}/result", b'{"status":"pass"}'),
    ):
        problem = problem_of(refused(api, method, target, body), 404, "exam-not-found")
        assert messages_of(problem) == {"pk": message}


@pytest.mark.parametrize("path", ["../../etc/passwd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "../{pk}", "a/b/c/d"])
def test_a_path_that_climbs_leads_nowhere(api: Api, pk: str, path: str) -> None:
    """A slash, escaped or not, makes it another address, and there is none."""
    problem_of(refused(api, "GET", f"/v1/exams/{path.format(pk=pk)}"), 404, "route-not-found")


# query strings


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=passed", "status"),
        ("status=", "status"),
        ("status", "status"),
        ("status=pass&status=pass", "status"),
        ("status=pass&status=fail", "status"),
        ("candidate=", "candidate"),
        ("candidate=%00", "candidate"),
        ("candidate=" + "x" * 3000, "candidate"),
        ("started_from=yesterday", "started_from"),
        ("started_from=2026-11-20T10:00:00+01:00", "started_from"),
        ("started_to=0001-01-01T00:00:00%2B23:59", "started_to"),
        ("limit=", "limit"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=1e9", "limit"),
        ("limit=10&limit=20", "limit"),
        ("cursor=", "cursor"),
        ("cursor=../../etc/passwd", "cursor"),
        ("cursor=" + "A" * 3000, "cursor"),
        ("page=2", "page"),
        ("Status=pass", "Status"),
        ("=x", ""),
        ("status%00=x", "status\0"),
        ("x" * 3000 + "=1", "x" * 100),
        ("unknown=1&unknown=2", "unknown"),
    ],
    ids=lambda text: text[:40],
)
def test_a_bad_query_is_refused(api: Api, pk: str, query: str, field: str) -> None:
    """422 names the parameter: unknown, blank, given twice or of no use."""
    problem = problem_of(refused(api, "GET", f"/v1/exams?{query}"), 422, "invalid-input")
    assert list(messages_of(problem)) == [field]


def test_a_query_that_is_not_text_is_refused(api: Api) -> None:
    """400: it would otherwise look for a candidate that nobody named."""
    problem = problem_of(refused(api, "GET", "/v1/exams?candidate=%ff"), 400, "bad-request")
    assert problem["detail"] == "the query string is not percent-encoded UTF-8"


def test_thousands_of_parameters_are_refused(api: Api) -> None:
    """And the answer stays short."""
    query = "&".join(f"p{number}=1" for number in range(5_000))
    problem = problem_of(refused(api, "GET", f"/v1/exams?{query}"), 422, "invalid-input")
    assert list(messages_of(problem)) == [f"p{number}" for number in range(20)]


MANY_NAMES_TAKE_S = 0.3
MANY_NAMES = [
    *(names(6_000, name) for name in ("n{:04}".format, lambda number: f"n{number // 2:04}", lambda _: "again")),
    *(
        b'{"task":"print_message","kwargs":' + names(6_000, name) + b"}"
        for name in ("n{:04}".format, lambda number: f"n{number // 2:04}", lambda _: "again")
    ),
    names(1, lambda _: "n" * 65_000),
    b'{"task":"print_message","kwargs":' + names(1, lambda _: "n" * 65_000) + b"}",
    b'{"task":"print_message","args":[' + b"1," * 31_000 + b"1]}",
]


@pytest.mark.parametrize("body", MANY_NAMES, ids=shortened)
def test_thousands_of_names_are_refused(api: Api, body: bytes) -> None:
    """In little time, though others wait meanwhile, and the answer stays short."""
    assert 60_000 < len(body) <= BODY_LIMIT
    began = time.process_time()
    answer = api.call("POST", "/v1/tasks", body=body)
    assert time.process_time() - began < MANY_NAMES_TAKE_S
    problem = problem_of(answer, 422, "invalid-input")
    assert len(messages_of(problem)) in (1, 2, 20)
    assert len(answer.content) < 10_000


def test_calls_without_a_body_take_none(api: Api, pk: str) -> None:
    """400, not silence: what it says would seem to be done. An empty one is none."""
    calls = [("GET", "/v1/exams"), ("DELETE", "/v1/tasks/x"), ("POST", "/v1/tasks/x/retry"), ("DELETE", "/v1/dead/x")]
    for method, path in [*calls, ("GET", f"/v1/exams/{pk}")]:
        for body in (b"{}", b'{"terminate":true}', b"x"):
            problem = problem_of(refused(api, method, path, body), 400, "bad-request")
            assert problem["detail"] == "this call takes no body"
        problem = problem_of(refused(api, method, path, Transfer_Encoding="chunked"), 400, "bad-request")
        assert problem["detail"] == "this call takes no body"
        assert api.call(method, path, headers={"Content-Length": "0"}).status_code in (200, 404)


def test_calls_without_parameters_take_none(api: Api, pk: str) -> None:
    """422, not silence: a filter in the wrong place would seem to work."""
    for method, path, body in (
        ("POST", "/v1/exams", b"{}"),
        ("GET", f"/v1/exams/{pk}", None),
        ("GET", f"/v1/exams/{pk}/events", None),
        ("PUT", f"/v1/exams/{pk}/result", b'{"status":"pass"}'),
        ("POST", "/v1/messages", b'{"message":"x"}'),
    ):
        problem = problem_of(refused(api, method, f"{path}?dry_run=1", body), 422, "invalid-input")
        assert messages_of(problem) == {"dry_run": "there is no such parameter; allowed are: none"}


# methods


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "TRACE", "CONNECT", "PUT"])
def test_a_method_that_is_not_taken_changes_nothing(api: Api, pk: str, method: str) -> None:
    """405 on the list as on the item."""
    for path in ("/v1/exams", f"/v1/exams/{pk}"):
        problem_of(refused(api, method, path), 405, "method-not-allowed")


# anything at all

ANY_TEXT = st.text(st.characters(), max_size=30)  # lone surrogates, too
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(["candidate", "title", "duration_s", "status", "message", "task", "args", "kwargs"])
ANY_JSON = (ANY_VALUE | st.dictionaries(FIELDS | ANY_TEXT, ANY_VALUE, max_size=3)).map(lambda v: json.dumps(v).encode())
ANY_BODY = ANY_JSON | st.binary(max_size=60)
NAMES = st.sampled_from(["status", "candidate", "started_from", "started_to", "limit", "cursor", "x"])
VALUES = st.sampled_from(["pass", "10", "2026-11-20T10:00:00Z", "9999-12-31T23:59:59Z"])
PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="?#"), max_size=30)
ANY_QUERY = st.lists(st.tuples(NAMES | PRINTABLE, VALUES | PRINTABLE).map("=".join), max_size=4).map("&".join)
ANY_CALL = st.sampled_from(
    [
        ("POST", "/v1/exams"),
        ("GET", "/v1/exams"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/tasks"),
        ("POST", "/v1/tasks/x/retry"),
        ("DELETE", "/v1/tasks/x"),
        ("PUT", f"/v1/exams/{new_pk(NOON)}/result"),
        ("GET", "/v1/exams/x"),
    ]
)


@pytest.fixture
def busy_api(tmp_path: Path, redis: PrivateRedis, clock: ManualClock) -> Iterator[Api]:
    """For random calls, some of which start exams."""
    with Api(settings_in(tmp_path, redis.url, NAMESPACE="busy"), clock) as api:
        yield api


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=ANY_CALL, body=ANY_BODY, query=ANY_QUERY)
def test_no_input_at_all_is_an_error_of_ours(busy_api: Api, call: tuple[str, str], body: bytes, query: str) -> None:
    """Random bodies and query strings: taken or refused, and every refusal is a problem."""
    method, path = call
    answer = busy_api.call(method, f"{path}?{query}" if query else path, body=body if method != "GET" else None)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["detail"]
