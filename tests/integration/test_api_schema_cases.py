"""The API keeps to its document, whatever is sent: cases that Schemathesis makes of it, against a real server."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode, Response
from schemathesis.checks import CheckFunction
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from api.long_polls import LONGEST_S
from run import redis_program
from tests.support.announcements import announce_nonsense
from tests.support.api_server import ApiServer
from tests.support.redis_server import PrivateRedis
from tests.support.rest import call
from tests.support.waiting import eventually

SHARDS = 4  # one a worker of pytest-xdist
CASES = 2_000 // SHARDS
SOAKED_CASES = 20_000 // SHARDS
SEED = 20_261_120  # the same cases in each run; the soak goes on from there
PATIENCE_S = 5
TOGETHER = 50  # cases that are made from one seed

# What these may hold is said by earlier answers, by the settings, and by the catalog of tasks, not by the document.
SAID_ELSEWHERE = {"cursor", "Idempotency-Key", "queue", "POST /v1/tasks"}
CHECKED = {
    "generation": {"with-security-parameters": False},  # each case is sent with a key, or with none
    "checks": {
        "positive_data_acceptance": {"expected-statuses": ["2xx", 304, 401, 404, 409]},
        "negative_data_rejection": {"expected-statuses": [400, 401, 404, 413, 415, 422]},
        "ignored_auth": {"enabled": False},  # it would send all cases thrice
    },
}
BUILD = settings(
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),  # how fast cases are made is no property of the API
)


class Target(NamedTuple):
    """A server, what it documents, and values of path parameters that name something there."""

    base_url: str
    key: str
    operations: Sequence[Any]
    known: dict[str, list[str]]
    session: requests.Session


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    redis = PrivateRedis(redis_program())
    folder = tmp_path_factory.mktemp("api")
    try:
        with ApiServer(folder, redis.url) as server, requests.Session() as session:
            session.trust_env = False
            address = f"127.0.0.1:{server.port}"
            schema = schemathesis.openapi.from_url(
                f"http://{address}/v1/openapi.json", config=SchemathesisConfig.from_dict(CHECKED)
            )
            operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
            exams = [call(address, server.key, "POST", "/v1/exams").body["pk"] for _ in range(4)]
            messages = [call(address, server.key, "POST", "/v1/messages", {"message": "x"}) for _ in range(4)]
            announce_nonsense(redis.client())
            known = {"pk": exams, "id": [answer.body["id"] for answer in messages]}
            yield Target(f"http://{address}", server.key, operations, known, session)
            assert [line for line in server.log() if line["level"] == "error"] == []
    finally:
        redis.close()


def try_out(
    target: Target, operation: Any, mode: GenerationMode, numbers: int, key: str, together: int = TOGETHER
) -> list[int]:
    """The statuses of so many cases; fails the test, with a call of curl, where an answer is not as documented."""
    statuses: list[int] = []

    @seed(numbers)
    @settings(BUILD, max_examples=together)
    @given(operation.as_strategy(generation_mode=mode), st.data())
    def run(case: Case[Any], data: st.DataObject) -> None:
        note(f"{operation.label}, {mode.value}, seed {numbers}")
        not_checked: list[CheckFunction] = []
        if not SAID_ELSEWHERE.isdisjoint([case.operation.label, *case.query, *case.headers]):
            not_checked.append(positive_data_acceptance)
        if isinstance(case.query.get("wait"), int | float) and 0 <= case.query["wait"] <= LONGEST_S:
            case.query["wait"] = 0.01  # no worker ends these tasks
        if any(value in ({}, []) for value in case.query.values()):
            not_checked.append(negative_data_rejection)  # in a query string these are nothing at all
        for name in target.known.keys() & case.path_parameters.keys():
            if data.draw(st.booleans()):
                case.path_parameters[name] = data.draw(st.sampled_from(target.known[name]))
                not_checked.append(negative_data_rejection)  # that may have been all that was wrong
        # On a machine with too much to do Redis may be late. A 503 says to try again, and has to be right in that.
        answer = eventually(lambda: answered(case), within_s=PATIENCE_S, what="an answer other than 503")
        assert answer is not None
        case.validate_response(answer, excluded_checks=not_checked)
        statuses.append(answer.status_code)

    def answered(case: Case[Any]) -> Response | None:
        headers = {"Authorization": f"Bearer {key}"}
        answer = case.call(base_url=target.base_url, headers=headers, session=target.session)
        return None if answer.status_code == 503 else answer

    with contextlib.suppress(Unsatisfiable):  # of a call without parameters nothing can be wrong
        run()
    assert statuses or mode is GenerationMode.NEGATIVE
    return statuses


def takes_input(operation: Any) -> bool:
    return bool(operation.definition.raw["parameters"] or operation.body)


def try_out_all(target: Target, shard: int, cases: int, first_seed: int) -> None:
    operations = [operation for operation in target.operations if takes_input(operation)][shard::SHARDS]
    tried = 0
    for numbers in itertools.count(first_seed):
        for operation, mode in itertools.product(operations, (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)):
            statuses = try_out(target, operation, mode, numbers, target.key)
            assert 401 not in statuses, operation.label
            tried += len(statuses)
        if tried >= cases:
            return


@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_answer_is_as_documented(target: Target, shard: int) -> None:
    """Status, content type, headers and body; never 5xx; what the document allows is taken, all else refused."""
    try_out_all(target, shard, CASES, SEED)


@pytest.mark.soak
@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_answer_is_as_documented_for_long(target: Target, shard: int) -> None:
    """Ten times as many."""
    try_out_all(target, shard, SOAKED_CASES, SEED + 1_000)


def test_calls_without_input_answer_as_documented(target: Target) -> None:
    """There is but one way to make each."""
    for operation in target.operations:
        if not takes_input(operation):
            headers = {"Authorization": f"Bearer {target.key}"}
            answer = operation.Case().call_and_validate(target.base_url, target.session, headers)
            assert answer.status_code == 200


def test_what_needs_a_key_is_refused_without_one(target: Target) -> None:
    """Whatever else is sent; the document says which calls those are."""
    secured = [operation for operation in target.operations if operation.definition.raw["security"]]
    assert secured
    for operation in secured:
        for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
            statuses = try_out(target, operation, mode, SEED, key="none", together=10)
            assert set(statuses) <= {401}, operation.label
