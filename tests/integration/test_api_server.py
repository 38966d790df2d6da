"""The API over a real socket: gunicorn and uvicorn as deployed, and clients that do not keep to HTTP."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from run import redis_program
from tests.support.api_server import ApiServer
from tests.support.redis_server import PrivateRedis
from tests.support.waiting import eventually

LIMIT = 64 * 1024
WHOLE_EXAM = b'{"candidate":"Ada"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    redis = PrivateRedis(redis_program())
    with ApiServer(tmp_path_factory.mktemp("api"), redis.url) as server:
        yield server
    redis.close()


def answers_in(raw: bytes) -> list[tuple[int, Any]]:
    """Status and JSON of each answer on a connection."""
    answers = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        (length,) = [int(line.split(":")[1]) for line in lines if line.startswith("content-length:")]
        answers.append((int(lines[0].split()[1]), json.loads(rest[:length])))
        raw = rest[length:]
    return answers


def number_of_exams(server: ApiServer) -> int:
    ((status, page),) = answers_in(server.exchange(server.request("GET", "/v1/exams?limit=200")))
    assert status == 200
    return len(page["items"])


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


def chunked_start(server: ApiServer, *headers: str) -> bytes:
    """The head of a start whose body comes without a Content-Length."""
    return server.request("POST", "/v1/exams", "Content-Type: application/json", "Transfer-Encoding: chunked", *headers)


def test_a_request_s_id_is_in_its_answer_and_in_the_log(server: ApiServer) -> None:
    """One line a request: method, path, status, how long, in which process; nothing of the query or the key."""
    raw = server.exchange(server.request("GET", "/v1/exams?candidate=Ada", "X-Request-Id: from-the-client"))
    assert b"x-request-id: from-the-client\r\n" in raw
    line = server.logged("from-the-client")
    assert (line["method"], line["path"], line["status"], line["process"]) == ("GET", "/v1/exams", 200, "api")
    assert line["took_ms"] >= 0
    assert "Ada" not in json.dumps(line) and server.key not in json.dumps(server.log())


def test_a_refusal_s_id_is_in_the_log(server: ApiServer) -> None:
    """Also where no route was found."""
    server.exchange(server.request("GET", "/nowhere", "X-Request-Id: lost"))
    assert (server.logged("lost")["path"], server.logged("lost")["status"]) == ("/nowhere", 404)


def test_a_message_s_text_is_not_logged(server: ApiServer) -> None:
    """Neither when it is taken nor when it is refused."""
    for number, body in enumerate((b'{"message":"confidential"}', b'{"message":"confidential","x":1}')):
        server.exchange(server.request("POST", "/v1/messages", f"X-Request-Id: message-{number}", body=body))
        server.logged(f"message-{number}")
    assert "confidential" not in json.dumps(server.log())


# bodies without a Content-Length


def test_a_chunked_body_is_read(server: ApiServer) -> None:
    """As many clients send one."""
    raw = server.exchange(chunked_start(server), chunked(b'{"cand', b'idate":"Zo\xc3', b'\xab"}', b""))
    ((status, exam),) = answers_in(raw)
    assert (status, exam["candidate"]) == (201, "Zoë")


@pytest.mark.parametrize("size", [LIMIT + 1, 1024 * 1024, 2 * 1024 * 1024])
def test_a_chunked_body_over_the_limit_is_refused(server: ApiServer, size: int) -> None:
    """413 without a Content-Length to go by; up to 1 MiB the client gets to read it."""
    before = number_of_exams(server)
    chunks = [b" " * min(32_768, size - sent) for sent in range(0, size, 32_768)]
    raw = server.exchange(chunked_start(server), chunked(*chunks, b""))
    if size <= 1024 * 1024:
        ((status, problem),) = answers_in(raw)
        assert (status, problem["detail"]) == (413, "a body may hold 65536 bytes")
    assert number_of_exams(server) == before


@pytest.mark.parametrize("size", [LIMIT + 1, 1024 * 1024])
def test_an_announced_body_over_the_limit_is_refused(server: ApiServer, size: int) -> None:
    """413, and the connection can be used for the next request."""
    large = server.request("POST", "/v1/exams", body=b" " * size).replace(b"Connection: close\r\n", b"")
    first, second = answers_in(server.exchange(large, server.request("GET", "/livez")))
    assert (first[0], second) == (413, (200, {"status": "ok"}))


# requests that break off


def cut_off(server: ApiServer, request_id: str) -> list[bytes]:
    """A whole exam's JSON, of which the client has announced more: by length, or by chunks without the last one."""
    headers = (f"X-Request-Id: {request_id}-length", "Content-Type: application/json", "Content-Length: 99")
    by_length = server.request("POST", "/v1/exams", *headers) + WHOLE_EXAM
    return [by_length, chunked_start(server, f"X-Request-Id: {request_id}-chunks") + chunked(WHOLE_EXAM)]


def test_a_body_that_breaks_off_starts_no_exam(server: ApiServer) -> None:
    """Even where what has arrived would be one: its sender did not get to say so."""
    before = number_of_exams(server)
    for part in cut_off(server, "cut"):
        server.leave(part)
    assert [server.logged("cut-length")["status"], server.logged("cut-chunks")["status"]] == [400, 400]
    assert number_of_exams(server) == before


@pytest.mark.parametrize("raw", [b"", b"\r\n", b"GET", b"GET /v1/exams HTTP/1.1\r\nHost: inv"])
def test_a_head_that_breaks_off_hurts_nobody(server: ApiServer, raw: bytes) -> None:
    """The connection is gone, the server is not."""
    server.leave(raw)
    assert server.is_alive()


# what is no HTTP


@pytest.mark.parametrize(
    "raw",
    [
        b"\0" * 1000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/exams/\0 HTTP/1.1\r\nHost: invigil\r\n\r\n",
        b"GET /\x01 HTTP/1.1\r\nHost: invigil\r\n\r\n",
        b"GET /v1/\xff HTTP/1.1\r\nHost: invigil\r\n\r\n",
        b"GET /v1/exams?candidate=Zo\xc3\xab HTTP/1.1\r\nHost: invigil\r\n\r\n",
        b"FETCH /v1/exams HTTP/1.1\r\nHost: invigil\r\n\r\n",
        b"WEBSOCKET /v1/exams HTTP/1.1\r\nHost: invigil\r\n\r\n",
        b"GET /v1/exams HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v1/exams HTTP/1.1\r\nX: a\0b\r\n\r\n",
        b"POST /v1/exams HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/exams HTTP/1.1\r\nContent-Length: ten\r\n\r\n",
        b"POST /v1/exams HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/exams HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"POST /v1/exams HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=lambda raw: repr(raw[:50]),
)
def test_what_is_no_http_is_refused(server: ApiServer, raw: bytes) -> None:
    """400 and the connection is closed; the server goes on."""
    before = number_of_exams(server)
    assert server.exchange(raw).startswith(b"HTTP/1.1 400 ")
    assert number_of_exams(server) == before


def test_random_bytes_do_not_stop_the_server(server: ApiServer) -> None:
    """Twenty connections full of noise, each refused."""
    for _ in range(20):
        noise = os.urandom(2_000)
        assert server.exchange(noise + b"\r\n\r\n").startswith(b"HTTP/1.1 400 "), noise
    assert server.is_alive()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/exams/" + "x" * 60_000, 404),
        ("/" + "x/" * 30_000, 404),
        ("/v1/exams?candidate=" + "x" * 60_000, 422),
        ("/v1/exams?" + "&" * 60_000 + "x", 422),
        ("/v1/exams/%00", 404),
        ("/v1/exams/%ff%fe", 404),
        ("/v1/exams/..%2f..%2fetc%2fpasswd", 404),
        ("/v1/exams/../../etc/passwd", 404),
        ("http://elsewhere/v1/nothing", 404),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_strange_address_is_refused(server: ApiServer, path: str, status: int) -> None:
    """Very long ones, escapes and climbing: a problem each time, and short log lines."""
    raw = server.exchange(server.request("GET", path, "X-Request-Id: strange"))
    ((answered, problem),) = answers_in(raw)
    assert answered == status == problem["status"], problem
    assert all(len(str(line.get("path", ""))) <= 200 for line in server.log())


def test_pipelined_requests_are_answered_in_order(server: ApiServer) -> None:
    """Good and bad ones alike, on one connection."""
    targets = ["/livez", "/nowhere", "/v1/exams/x", "/v1/exams?limit=1", "/livez"]
    requests = [server.request("GET", target).replace(b"Connection: close\r\n", b"") for target in targets[:-1]]
    raw = server.exchange(b"".join(requests) + server.request("GET", targets[-1]))
    assert [status for status, _ in answers_in(raw)] == [200, 404, 404, 200, 200]


def test_all_log_lines_are_json(server: ApiServer) -> None:
    """gunicorn's, uvicorn's and ours, complaints about bad requests included."""
    server.exchange(b"garbage\r\n\r\n")
    eventually(lambda: [line for line in server.log() if "Invalid HTTP request" in line["event"]], what="a complaint")
    assert {"timestamp", "level", "event", "process"} <= set.intersection(*(set(line) for line in server.log()))
    assert not [line for line in server.log() if line["level"] == "error"]
