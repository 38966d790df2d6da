"""Every route says who may call it."""

import ast
from pathlib import Path

import falcon.inspect
import pytest
from falcon.asgi import App, Request, Response

from api.app import create_app
from api.keys import SCOPES
from shared.services import for_callers
from tests.support.api import settings_in

NO_KEY_NEEDED = {"/livez", "/startupz", "/readyz"}


@pytest.fixture
def app(tmp_path: Path) -> "App[Request, Response]":
    return create_app(for_callers(settings_in(tmp_path, f"unix://{tmp_path}/none.sock")))


def routes(app: "App[Request, Response]") -> dict[str, tuple[object, set[str]]]:
    """Of each path its resource and the methods that it has a responder for."""
    found: dict[str, tuple[object, set[str]]] = {}
    for route in falcon.inspect.inspect_routes(app):
        match = app._router.find(route.path.replace("{pk}", "x"))
        assert match is not None
        resource, *_ = match
        methods = {method.method for method in route.methods if not method.internal}
        found[route.path] = (resource, methods)
    return found


def test_every_route_declares_a_scope_for_each_method(app: "App[Request, Response]") -> None:
    """A method without one would be open to any key; no method means no key at all, and that is for health only."""
    for path, (resource, methods) in routes(app).items():
        scopes = resource.scopes  # type: ignore[attr-defined]
        if path in NO_KEY_NEEDED:
            assert scopes is None, path
        else:
            assert set(scopes) == methods, path
            assert set(scopes.values()) <= set(SCOPES), path


def test_all_routes_of_the_source_are_looked_at(app: "App[Request, Response]") -> None:
    """The check above sees what api/app.py adds, nothing less."""
    tree = ast.parse((Path(__file__).parents[2] / "api" / "app.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    added = {ast.literal_eval(call.args[0]) for call in calls if call.func.attr == "add_route"}  # type: ignore[attr-defined]
    assert set(routes(app)) == added
    assert added >= NO_KEY_NEEDED
