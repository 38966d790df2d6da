"""Ids and records of tasks: short, and read as they were written."""

import struct
import uuid
from typing import Any

import pytest
from dramatiq import Message
from dramatiq.errors import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from shared.broker.record import (
    ID_BYTES,
    NAME_BYTES,
    NONCE_BYTES,
    USUAL_PRIORITY,
    pack_id,
    pack_record,
    unpack_id,
    unpack_record,
)
from shared.errors import InvalidInput
from shared.exams.pk import new_pk
from tests.support.clock import NOON

NONCE = b"\x00\xffno"
TEXTS = st.text()  # hypothesis leaves lone surrogates out where it is to be encoded
IDS = st.text(min_size=1).filter(lambda text: len(text.encode()) <= ID_BYTES)
NAMES = st.text(min_size=1, max_size=NAME_BYTES // 4)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(TEXTS, values, max_size=4),
    max_leaves=10,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=4)
RESERVED = {"priority", "expires", "result_ttl", "retries"}  # options that have a form of their own


@st.composite
def messages(draw: st.DrawFn) -> Message[Any]:
    options: dict[str, Any] = {name: value for name, value in draw(OBJECTS).items() if name not in RESERVED}
    if draw(st.booleans()):
        options["priority"] = draw(st.integers(0, 9))
    return Message(
        queue_name=draw(NAMES),
        actor_name=draw(NAMES),
        args=tuple(draw(st.lists(VALUES, max_size=4))),
        kwargs=draw(OBJECTS),
        options=options,
        message_id=draw(IDS),
        message_timestamp=draw(st.integers(0, 2**48 - 1)),
    )


def a_message(*args: Any, **options: Any) -> Message[Any]:
    return Message("exams", "mark_absent", args, {}, options, new_pk(NOON), 1_795_000_000_000)


@given(IDS | st.uuids().map(str) | st.builds("{}.{}".format, st.uuids(), st.integers(0, 300)))
def test_an_id_is_read_as_it_was_written(task_id: str) -> None:
    assert unpack_id(pack_id(task_id)) == task_id


@given(st.uuids(), st.integers(0, 255))
def test_the_id_of_an_exam_s_deadline_takes_18_bytes(pk: uuid.UUID, number: int) -> None:
    """That of any other UUID 17."""
    assert len(pack_id(f"{pk}.{number}")) == 18
    assert len(pack_id(str(pk))) == 17


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda text: text.replace("-", ""),
        lambda text: f"{{{text}}}",
        lambda text: f"{text}.256",
        lambda text: f"{text}.01",
        lambda text: f"{text}.",
        lambda text: f"{text}.-1",
        lambda text: f"{text}.1\n",
        lambda text: f" {text}",
        lambda text: text.replace("0", "٠"),
    ],
)
def test_what_only_looks_like_a_uuid_is_kept_as_it_is(change: Any) -> None:
    """Two ids are never written alike."""
    task_id = change("0192fe1c-bad0-7abc-8abc-000000000abc")
    assert pack_id(task_id) == b"t" + task_id.encode()
    assert unpack_id(pack_id(task_id)) == task_id


@pytest.mark.parametrize("task_id", ["", "x" * 201, "é" * 101, "\ud800"])
def test_an_id_that_cannot_be_used_is_refused(task_id: str) -> None:
    with pytest.raises(InvalidInput, match="task_id: must be 1 to 200 bytes of UTF-8"):
        pack_id(task_id)


@pytest.mark.parametrize("task_id", ["x", "x" * 200, "é" * 100, "\0", "u" * 17])
def test_an_id_may_be_any_text_of_200_bytes(task_id: str) -> None:
    assert unpack_id(pack_id(task_id)) == task_id


@given(messages(), st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES))
def test_a_record_is_read_as_it_was_written(message: Message[Any], nonce: bytes) -> None:
    record = unpack_record(pack_id(message.message_id), pack_record(message, nonce))
    assert record.message == message
    assert (record.priority, record.nonce) == (message.options.get("priority", USUAL_PRIORITY), nonce)


@given(messages())
def test_the_head_is_where_the_scripts_look_for_it(message: Message[Any]) -> None:
    """Priority, queue and nonce, as lua/lib/record.lua reads them."""
    record = pack_record(message, NONCE)
    queue = message.queue_name.encode()
    head = struct.pack(
        f">cB{len(queue)}s4s", b"%d" % message.options.get("priority", USUAL_PRIORITY), len(queue), queue, NONCE
    )
    assert record.startswith(head)


def test_the_record_of_a_deadline_is_small() -> None:
    """Its head 17 bytes, and the exam's key the most of the rest."""
    record = pack_record(a_message(new_pk(NOON)), NONCE)
    assert len(record) == (1 + 1 + len("exams") + 4 + 6) + (1 + 1 + len("mark_absent")) + (1 + 2 + 36)


def test_what_is_empty_takes_no_room() -> None:
    """Unless something follows that is not."""
    bare = len(pack_record(a_message(), NONCE))
    assert bare == 17 + 1 + 1 + len("mark_absent")
    assert len(pack_record(a_message(priority=1), NONCE)) == bare + 1 + 1 + 1 + len("priority") + 1 + 1


@given(messages(), st.data())
def test_a_record_cut_short_is_not_read(message: Message[Any], data: st.DataObject) -> None:
    record = pack_record(message, NONCE)
    length = data.draw(st.integers(0, len(record) - 1))
    with pytest.raises(DecodeError):
        unpack_record(pack_id(message.message_id), record[:length])


@given(st.binary())
def test_bytes_that_are_no_record_are_not_read_or_read_as_a_message(record: bytes) -> None:
    """Nothing but DecodeError comes out of it."""
    try:
        message = unpack_record(b"tx", record).message
    except DecodeError:
        return
    assert message.message_id == "x"
