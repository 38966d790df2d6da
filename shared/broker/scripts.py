"""The Lua scripts of lua/, put together and called by their hash.

A script names the pieces of lua/lib/ it needs in a line `-- uses ...`, and keys by their names in redis_keys.py. Redis
forgets scripts when it restarts or is told to; whoever meets that loads them again and calls again.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import redis

from shared.redis_keys import RedisKeys

_LUA = Path(__file__).parent / "lua"

Argument = bytes | str | int


class Script:
    """One script for one namespace."""

    def __init__(self, name: str, keys: RedisKeys) -> None:
        self.text = _assembled(name, keys)
        # What EVALSHA wants of it. The key says in which slot of a Redis Cluster the script runs.
        self.head = ("EVALSHA", hashlib.sha1(self.text.encode()).hexdigest(), 1, keys.key("messages"))  # noqa: S324


Call = tuple[Script, Sequence[Argument]]
Exchange = Callable[[Sequence[Call]], list[Any]]
"""Sends calls together, and answers as many answers, an Exception where one is an error."""


def through_pool(client: "redis.Redis") -> Exchange:
    """Over a connection of the client's pool."""

    def exchange(calls: Sequence[Call]) -> list[Any]:
        if len(calls) == 1:
            ((script, arguments),) = calls
            try:
                return [client.execute_command(*script.head, *arguments)]  # type: ignore[no-untyped-call]
            except redis.ResponseError as error:
                return [error]
        with client.pipeline(transaction=False) as pipeline:
            for script, arguments in calls:
                pipeline.execute_command(*script.head, *arguments)  # type: ignore[no-untyped-call]
            return pipeline.execute(raise_on_error=False)

    return with_loading(exchange, client)


def with_loading(exchange: Exchange, client: "redis.Redis") -> Exchange:
    """The same, but scripts that Redis has forgotten are loaded through `client` and called again."""

    def exchange_and_load(calls: Sequence[Call]) -> list[Any]:
        answers = exchange(calls)
        unknown = [index for index, answer in enumerate(answers) if isinstance(answer, redis.exceptions.NoScriptError)]
        if unknown:  # these have not run
            for script in {calls[index][0] for index in unknown}:
                client.script_load(script.text)
            again = exchange([calls[index] for index in unknown])
            for index, answer in zip(unknown, again, strict=True):
                answers[index] = answer
        return answers

    return exchange_and_load


def _assembled(name: str, keys: RedisKeys) -> str:
    shebang, _, body = _read(f"{name}.lua").partition("\n")
    code = "".join(_read(f"lib/{piece}.lua") for piece in _pieces(body)) + body
    named = [name for name in keys.names() if re.search(rf"\b{name}\b", code)]
    return "\n".join([shebang, *(keys.in_lua(name) for name in named), code])


def _pieces(code: str) -> list[str]:
    """What this code uses, and before each what that uses."""
    pieces: list[str] = []
    for line in re.findall("^-- uses (.+)$", code, re.MULTILINE):
        for piece in line.split(", "):
            pieces += [*_pieces(_read(f"lib/{piece}.lua")), piece]
    return list(dict.fromkeys(pieces))


@cache
def _read(path: str) -> str:
    return (_LUA / path).read_text(encoding="utf-8")
