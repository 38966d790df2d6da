"""Calls of the API as any client makes them."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPResponse
from typing import Any, NamedTuple

ANSWER_WITHIN_S = 10


class Answer(NamedTuple):
    """`headers` by their names in small letters."""

    status: int
    body: Any
    headers: Mapping[str, str]
    took_s: float


def call(address: str, key: str, method: str, path: str, body: object = None) -> Answer:
    """An answer with JSON in it, problem or not, of the API at `host:port`."""
    headers = {"Authorization": f"Bearer {key}"}
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(f"http://{address}{path}", data, headers, method=method)
    began = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S) as response:
            return _answer(response.status, response, began)
    except urllib.error.HTTPError as problem:
        with problem:
            return _answer(problem.code, problem, began)


def _answer(status: int, response: "HTTPResponse | urllib.error.HTTPError", began: float) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(status, json.load(response), headers, time.monotonic() - began)
