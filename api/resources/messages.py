"""Messages over REST: answered at once, printed by a worker a while later."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated

import falcon
import msgspec
from falcon.asgi import Request, Response

from api.batches import Batches
from api.bodies import JsonBody, query
from api.fields import Instant
from api.idempotency import KEY_HEADER, REPLAYED, attempt_of, mark
from api.operations import Answer, Operation
from shared.clock import Clock, rfc3339
from shared.errors import BrokerUnavailable, StoreUnavailable
from shared.tasks.call import NO_OPTIONS
from shared.tasks.calls import Taken, TaskCall
from shared.tasks.catalog import LONGEST_MESSAGE, print_message
from shared.tasks.sender import Sending, TaskSender


class MessageBody(msgspec.Struct, forbid_unknown_fields=True):
    """What the worker is to print."""

    message: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=LONGEST_MESSAGE,
            description=f"a text of 1 to {LONGEST_MESSAGE} characters",
            examples=["hello"],
        ),
    ]


class MessageTask(msgspec.Struct):
    """The task that prints a message."""

    id: str
    task: str
    queue: str
    enqueued_at: Instant | None


def send_messages(sender: TaskSender) -> Callable[[Sequence[str]], Sequence[str]]:
    """The work of a batch of messages: gives the id of each one's task. Raises BrokerUnavailable for all of them."""
    return lambda messages: sender.send_many([Sending(print_message, (message,)) for message in messages])


class MessageCollection:
    """`POST /v1/messages`. Their tasks go to `queue`."""

    _body = JsonBody(MessageBody)

    def __init__(
        self, messages: Batches[str, str], keyed_calls: Batches[TaskCall, Taken], queue: str, clock: Clock
    ) -> None:
        self._messages = messages
        self._keyed_calls = keyed_calls
        self._queue = queue
        self._clock = clock

    @Operation(
        "Have a worker print a message after INVIGIL_MESSAGE_SECONDS",
        tag="messages",
        scope="tasks:write",
        headers=KEY_HEADER,
        body=_body,
        answers={202: Answer("It will be printed.", MessageTask, headers=(REPLAYED,))},
        errors=(BrokerUnavailable, StoreUnavailable),
    )
    async def on_post(self, req: Request, resp: Response) -> None:
        query(req, ())
        body = await self._body.read(req)
        enqueued_at: datetime | None
        if attempt := attempt_of(req, body):
            call = TaskCall(print_message, (body.message,), {}, NO_OPTIONS, attempt)
            state, is_repeat = await self._keyed_calls.do(call)
            mark(resp, is_repeat=is_repeat)
            task_id, enqueued_at = state.id, state.enqueued_at
        else:
            task_id, enqueued_at = await self._messages.do(body.message), self._clock.now()
        resp.status = falcon.HTTP_202
        at = None if enqueued_at is None else rfc3339(enqueued_at)
        resp.data = msgspec.json.encode(MessageTask(task_id, print_message.name, self._queue, at))
