"""Every call says who may make it, and a call that says nothing about itself stops the start-up."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import falcon.inspect
import pytest
from falcon.asgi import App, Request, Response

from api.app import create_app
from api.keys import SCOPES
from api.openapi import document
from api.operations import Answer, Operation, operations_of
from shared.services import for_callers
from tests.support.api import settings_in

NO_KEY_NEEDED = {"/livez", "/startupz", "/readyz", "/docs", "/docs/{name}", "/v1/openapi.json"}


@pytest.fixture
def app(tmp_path: Path) -> "App[Request, Response]":
    return create_app(for_callers(settings_in(tmp_path, f"unix://{tmp_path}/none.sock")))


def resources(app: "App[Request, Response]") -> Mapping[str, Any]:
    """What answers at each path that Falcon knows."""
    found = {}
    for route in falcon.inspect.inspect_routes(app):
        match = app._router.find(route.path.replace("{", "").replace("}", ""))
        assert match is not None
        found[route.path] = match[0]
    return found


def test_every_route_declares_a_scope_for_each_method(app: "App[Request, Response]") -> None:
    """No scope means no key at all, and that is for health and documentation only."""
    for path, resource in resources(app).items():
        scopes = {operation.scope for operation in operations_of(resource).values()}
        if path in NO_KEY_NEEDED:
            assert scopes == {None}, path
        else:
            assert scopes
            assert scopes <= set(SCOPES), path


def test_every_operation_is_one_that_falcon_serves(app: "App[Request, Response]") -> None:
    """And the other way round: the methods of each route are those that are declared."""
    for route in falcon.inspect.inspect_routes(app):
        served = {method.method for method in route.methods if not method.internal}
        assert served == set(operations_of(resources(app)[route.path])), route.path


class Undeclared:
    async def on_get(self, req: Request, resp: Response) -> None: ...


class OtherParameter:
    @Operation("Read it", tag="exams", scope=None, answers={200: Answer("It.")})
    async def on_get(self, req: Request, resp: Response, pk: str) -> None: ...


def test_a_responder_that_declares_nothing_stops_the_start() -> None:
    """The document cannot be made, so nothing is served without a declared scope."""
    with pytest.raises(AttributeError, match="operation"):
        document({"/v1/exams": Undeclared()})


@pytest.mark.parametrize("path", ["/v1/exams", "/v1/exams/{id}", "/v1/exams/{pk}/{id}"])
def test_a_path_and_its_responder_name_the_same_parameters(path: str) -> None:
    """Otherwise Falcon would find out on the first request."""
    with pytest.raises(ValueError, match="takes other parameters: pk"):
        document({path: OtherParameter()})
