"""Messages over REST: answered at once, printed by a worker a while later."""

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import falcon
import msgspec
from falcon.asgi import Request, Response

from api.batches import Batches
from api.bodies import JsonBody, query
from shared.clock import Clock, rfc3339
from shared.errors import FieldError, InvalidInput
from shared.tasks.catalog import PRINT_MESSAGE
from shared.tasks.sender import Sending, TaskSender

LONGEST = 10_000  # characters
TEXT = msgspec.Meta(description=f"a text of 1 to {LONGEST} characters")


class MessageBody(msgspec.Struct, forbid_unknown_fields=True):
    message: Annotated[str, TEXT]


def send_messages(sender: TaskSender) -> Callable[[Sequence[str]], Sequence[str]]:
    """The work of a batch of messages: gives the id of each one's task. Raises BrokerUnavailable for all of them."""
    return lambda messages: sender.send_many([Sending(PRINT_MESSAGE, (message,)) for message in messages])


class MessageCollection:
    """`POST /v1/messages`."""

    scopes: ClassVar = {"POST": "tasks:write"}
    _body = JsonBody(MessageBody)

    def __init__(self, messages: Batches[str, str], clock: Clock) -> None:
        self._messages = messages
        self._clock = clock

    async def on_post(self, req: Request, resp: Response) -> None:
        query(req, ())
        body = await self._body.read(req)
        if not 1 <= len(body.message) <= LONGEST:
            raise InvalidInput(FieldError("message", f"must be {TEXT.description}"))
        task_id = await self._messages.do(body.message)
        resp.status = falcon.HTTP_202
        resp.data = msgspec.json.encode(
            {
                "id": task_id,
                "task": PRINT_MESSAGE.name,
                "queue": PRINT_MESSAGE.queue,
                "enqueued_at": rfc3339(self._clock.now()),
            }
        )
