"""The API's document and the page that shows it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon
import pytest
from openapi_spec_validator import validate

from api.resources.docs import DocsFile
from run import redis_program
from tests.support.api import Api, problem_of, settings_in
from tests.support.api_server import ApiServer
from tests.support.browser import Browser
from tests.support.redis_server import PrivateRedis

ROOT = Path(__file__).parents[2]
PAGES = ["/docs", "/docs/start.js", "/docs/swagger-ui-5.35.0.js", "/docs/swagger-ui-5.35.0.css", "/v1/openapi.json"]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Api(settings_in(tmp_path, f"unix://{tmp_path}/none.sock")) as api:
        yield api


@pytest.fixture
def document(api: Api) -> dict[str, Any]:
    """As a client gets it, without a key."""
    answer = api.call("GET", "/v1/openapi.json", key=None)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    return dict(answer.json)


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each under its method and path."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


# the document


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    """By the validator of the OpenAPI initiative's schemas, at version 3.1."""
    assert document["openapi"].startswith("3.1.")
    validate(document)


def test_the_document_has_the_calls_that_there_are(document: dict[str, Any]) -> None:
    """Itself included. That no route is missing, tests/unit/test_scopes.py holds."""
    assert operations(document).keys() >= {
        "POST /v1/exams",
        "GET /v1/exams",
        "GET /v1/exams/{pk}",
        "GET /v1/exams/{pk}/events",
        "PUT /v1/exams/{pk}/result",
        "POST /v1/messages",
        "POST /v1/tasks",
        "GET /v1/tasks",
        "GET /v1/tasks/{id}",
        "DELETE /v1/tasks/{id}",
        "GET /v1/tasks/{id}/result",
        "POST /v1/tasks/{id}/retry",
        "GET /v1/dead",
        "DELETE /v1/dead/{id}",
        "POST /v1/dead/{id}/retry",
        "GET /v1/catalog",
        "GET /v1/queues",
        "GET /v1/workers",
        "GET /livez",
        "GET /startupz",
        "GET /readyz",
        "GET /v1/openapi.json",
        "GET /docs",
        "GET /docs/{name}",
    }


def test_what_each_call_has_is_named(document: dict[str, Any]) -> None:
    """An id of its own, a summary, a tag that is explained; references that lead somewhere."""
    found = operations(document)
    assert len({operation["operationId"] for operation in found.values()}) == len(found)
    explained = {tag["name"] for tag in document["tags"]}
    for name, operation in found.items():
        assert operation["summary"], name
        assert set(operation["tags"]) <= explained, name
    for reference in re.findall(r'"\$ref": "#/components/(\w+)/([\w-]+)"', json.dumps(document)):
        assert reference[1] in document["components"][reference[0]]


def test_the_version_is_the_project_s(document: dict[str, Any]) -> None:
    """There is one place to change it."""
    assert f'version = "{document["info"]["version"]}"' in (ROOT / "pyproject.toml").read_text()


def test_every_refusal_is_a_problem(document: dict[str, Any]) -> None:
    """With the header that goes with its status; 503 of /readyz also has the checks."""
    own_header = {"401": "WWW-Authenticate", "503": "Retry-After"}
    for name, operation in operations(document).items():
        for status, answer in operation["responses"].items():
            assert "X-Request-Id" in answer["headers"], (name, status)
            if status >= "400":
                assert "application/problem+json" in answer["content"], (name, status)
            if status in own_header and name != "GET /readyz":
                assert own_header[status] in answer["headers"], (name, status)


def test_a_call_names_what_it_may_be_refused_for(document: dict[str, Any]) -> None:
    """Whatever reads a body can refuse it in five ways, whatever needs a key in two."""
    found = operations(document)
    assert set(found["PUT /v1/exams/{pk}/result"]["responses"]) == {
        *("200", "400", "401", "403", "404", "408", "409", "413", "415", "422", "503"),
    }
    assert set(found["GET /v1/exams"]["responses"]) == {"200", "400", "401", "403", "422", "503"}
    assert set(found["GET /docs/{name}"]["responses"]) == {"200", "304", "404"}


def test_the_document_has_the_limits_that_hold(document: dict[str, Any]) -> None:
    """Lengths, ranges, patterns and choices are those that refuse."""
    schemas = document["components"]["schemas"]
    candidate, null = schemas["StartBody"]["properties"]["candidate"]["anyOf"]
    assert (candidate["minLength"], candidate["maxLength"], null) == (1, 200, {"type": "null"})
    duration = schemas["StartBody"]["properties"]["duration_s"]["anyOf"][0]
    assert (duration["minimum"], duration["maximum"]) == (1, 604_800)
    assert schemas["StartBody"]["additionalProperties"] is False
    parameters = {each["name"]: each["schema"] for each in operations(document)["GET /v1/exams"]["parameters"]}
    limit = parameters["limit"]
    assert (limit["minimum"], limit["maximum"], limit["default"]) == (1, 200, 50)
    assert parameters["started_from"]["format"] == "date-time"


def test_an_answer_leaves_no_field_out(document: dict[str, Any]) -> None:
    """What is described is required, null where there is nothing; only a request may leave fields out."""
    requests = {
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for operation in operations(document).values()
        if "requestBody" in operation
    }
    for name, schema in document["components"]["schemas"].items():
        if name not in requests and schema.get("type") == "object":
            assert set(schema["required"]) == set(schema["properties"]), name


def test_a_method_that_is_not_documented_is_not_taken(api: Api, document: dict[str, Any]) -> None:
    """405, with those that are in the Allow header; no key is needed to learn it."""
    for path, documented in document["paths"].items():
        methods = {method.upper() for method in documented}
        for method in {*falcon.HTTP_METHODS} - methods - {"OPTIONS", "HEAD"}:
            answer = api.call(method, re.sub(r"{\w+}", "x", path), key=None)
            problem_of(answer, 405, "method-not-allowed")
            assert {name.strip() for name in answer.headers["allow"].split(",")} == methods | {"OPTIONS"}


# the page's files


@pytest.mark.parametrize("path", PAGES)
def test_what_has_not_changed_is_not_sent_again(api: Api, path: str) -> None:
    """304 for the ETag of what the client has, 200 for another."""
    first = api.call("GET", path, key=None)
    assert (first.status_code, bool(first.content)) == (200, True)
    etag = first.headers["etag"]
    for given, status in [(etag, 304), (f'"x", {etag}', 304), ("*", 304), ('"x"', 200)]:
        again = api.call("GET", path, key=None, headers={"If-None-Match": given})
        assert (again.status_code, again.headers["etag"]) == (status, etag)
        assert again.content == (first.content if status == 200 else b"")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_load_nothing_from_elsewhere(api: Api, path: str) -> None:
    """Nor run what stands in it, nor be framed."""
    headers = api.call("GET", path, key=None).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "font-src": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")


def test_files_with_a_version_in_their_name_are_kept_for_good(api: Api) -> None:
    """All others are asked for again each time, and cost a 304."""
    for path in PAGES:
        kept = api.call("GET", path, key=None).headers["cache-control"]
        assert kept == ("public, max-age=31536000, immutable" if "5.35.0" in path else "no-cache"), path


@pytest.mark.parametrize("name", ["index.html", "LICENSE", "..%2fapp.py", "swagger-ui-5.35.0", "%00", "x" * 3_000])
def test_nothing_else_of_the_folder_is_served(api: Api, name: str) -> None:
    """A name is looked up, never joined to a path."""
    problem_of(api.call("GET", f"/docs/{name}", key=None), 404, "route-not-found")


def test_every_file_of_the_table_is_there(api: Api) -> None:
    """With the type that a browser insists on."""
    for name in DocsFile.FILES:
        answer = api.call("GET", f"/docs/{name}", key=None)
        wanted = "text/javascript; charset=utf-8" if name.endswith(".js") else "text/css; charset=utf-8"
        assert (answer.status_code, answer.headers["content-type"]) == (200, wanted)


# the page, in a browser

BLOCK = "document.querySelector('#operations-exams-post_exams')"
TYPE_KEY = """(() => {
  const field = document.querySelector('.auth-container input');
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, '%s');
  field.dispatchEvent(new Event('input', {bubbles: true}));
})()"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    redis = PrivateRedis(redis_program())
    try:
        with ApiServer(tmp_path, redis.url) as server:
            yield server
    finally:
        redis.close()


@pytest.fixture
def browser(tmp_path: Path, server: ApiServer) -> Iterator[Browser]:
    """It shows the page."""
    with Browser(tmp_path) as browser:
        browser.open(f"http://127.0.0.1:{server.port}/docs")
        browser.until("document.querySelectorAll('.opblock').length")
        yield browser


def click(browser: Browser, what: str) -> None:
    browser.until(f"!!{what}")
    browser.evaluate(f"{what}.click()")


def test_the_page_shows_every_operation(browser: Browser, server: ApiServer, document: dict[str, Any]) -> None:
    """Opened, with its parameters and answers; the browser has nothing to complain of."""
    assert browser.evaluate("document.querySelectorAll('.opblock').length") == len(operations(document))
    browser.evaluate("document.querySelectorAll('.opblock-summary-control').forEach(each => each.click())")
    browser.until(f"document.querySelectorAll('.opblock.is-open').length == {len(operations(document))}")
    shown = browser.until("document.querySelector('#operations-exams-get_exams .parameters')?.innerText")
    assert all(name in shown for name in ("status", "candidate", "started_from", "limit", "cursor"))
    assert "application/problem+json" in browser.evaluate(f"{BLOCK}.innerText")
    assert browser.complaints == []


def test_a_call_can_be_tried_out_with_a_key(browser: Browser, server: ApiServer) -> None:
    """The exam that it starts is shown; the browser has nothing to complain of."""
    click(browser, "document.querySelector('.btn.authorize')")
    browser.until("!!document.querySelector('.auth-container input')")
    browser.evaluate(TYPE_KEY % server.key)
    click(browser, "document.querySelector('.auth-btn-wrapper .authorize')")
    click(browser, "document.querySelector('.auth-btn-wrapper .btn-done')")
    click(browser, f"{BLOCK}.querySelector('.opblock-summary-control')")
    click(browser, f"{BLOCK}.querySelector('.try-out__btn')")
    click(browser, f"{BLOCK}.querySelector('.execute')")
    answer = browser.until(f"{BLOCK}.querySelector('.live-responses-table')?.innerText")
    assert "201" in answer
    assert '"seconds_remaining"' in answer
    assert browser.complaints == []


def test_the_browser_would_complain(browser: Browser) -> None:
    """The checks above see what the policy forbids: a style and a script in the page, a call elsewhere."""
    browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">')")
    browser.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: '1'}))")
    browser.evaluate("fetch('http://127.0.0.1:9/').catch(() => null)")
    assert len([text for text in browser.complaints if "Content Security Policy" in text]) >= 3
