"""A client that begins a body and does not go on."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from falcon import testing
from falcon.asgi import Request

from api.bodies import HTTPRequestTimeout, JsonBody
from api.resources.exams import StartBody


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    """With 408, so that no request is held open for ever."""

    async def receive() -> Mapping[str, Any]:
        nothing: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        return await nothing

    async def read() -> None:
        scope = testing.create_scope(method="POST", headers={"Content-Length": "10"})
        await JsonBody(StartBody, arrive_within_s=0.01).read(Request(scope, receive))

    with pytest.raises(HTTPRequestTimeout, match="408"):
        asyncio.run(read())
