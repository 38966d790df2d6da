"""The keys of Redis, as Python and as Lua build them."""

import pytest
from redis.crc import key_slot

from shared.broker.record import pack_id
from shared.exams.pk import new_pk
from shared.redis_keys import RedisKeys
from tests.support.clock import NOON
from tests.support.redis_server import PrivateRedis

KEYS = RedisKeys("school-2_b")
QUEUES = ["exams", "a:b", "{x}", "q'\"]]\\n\0", "Prüfung"]
IDS = [pack_id(new_pk(NOON)), pack_id(f"{new_pk(NOON)}.255"), pack_id("{}:="), bytes(range(256))]

PARTS: dict[str, list[tuple[bytes | str, ...]]] = {
    "messages": [()],
    "due_set": [(queue,) for queue in QUEUES],
    "ready": [(queue, str(priority)) for queue in QUEUES for priority in range(10)],
    "alone": [(queue,) for queue in QUEUES],
    "leases": [(queue,) for queue in QUEUES],
    "dead": [(queue,) for queue in QUEUES],
    "live": [(task_id,) for task_id in IDS],
    "ended": [(task_id,) for task_id in IDS],
    "recent": [(queue,) for queue in QUEUES],
    "ticked": [("send_digest", "1795176000000")],
    "turns": [(queue,) for queue in QUEUES],
    "signal": [(queue,) for queue in QUEUES],
    "sooner": [(queue,) for queue in QUEUES],
    "group": [("0199aabb-ccdd:{}=",)],
    "workers": [()],
    "control": [("0199aabbccdd",)],
    "ending": [(task_id,) for task_id in IDS],
}


def test_every_key_is_in_this_table() -> None:
    """A key added later fails this until its parts are here."""
    assert set(PARTS) == set(KEYS.names())


@pytest.mark.parametrize("name", PARTS)
def test_lua_builds_the_same_key_as_python(redis_server: PrivateRedis, name: str) -> None:
    """Of whatever parts; a priority may be a number there."""
    call = f"{name}(unpack(ARGV))" if PARTS[name] != [()] else name
    script = redis_server.client().register_script(f"{KEYS.in_lua(name)}\nreturn {call}")
    for parts in PARTS[name]:
        assert script(args=parts) == KEYS.key(name, *parts)
    if name == "ready":
        numbered = redis_server.client().register_script(f"{KEYS.in_lua(name)}\nreturn ready('exams', tonumber('7'))")
        assert numbered() == KEYS.key("ready", "exams", "7")


def test_no_two_keys_are_alike() -> None:
    """Of different names, of different parts, of different namespaces."""
    others = RedisKeys("school-2")
    keys = [space.key(name, *parts) for space in (KEYS, others) for name in PARTS for parts in PARTS[name]]
    assert len(set(keys)) == len(keys)


def test_a_cluster_keeps_all_keys_in_one_slot() -> None:
    """Whatever the parts hold: scripts touch several keys, and a Redis Cluster runs them within a slot only."""
    assert len({key_slot(KEYS.key(name, *parts)) for name in PARTS for parts in PARTS[name]}) == 1


@pytest.mark.parametrize("name", PARTS)
def test_a_key_takes_as_many_parts_as_it_has_places(name: str) -> None:
    """One too many or too few is a mistake that shows at once."""
    parts = PARTS[name][0]
    with pytest.raises(ValueError, match="zip"):
        KEYS.key(name, *parts, "more")
    if parts:
        with pytest.raises(ValueError, match="zip"):
            KEYS.key(name, *parts[:-1])
