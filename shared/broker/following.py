"""What follows when a task has succeeded: the next of a chain, and whom a group calls back.

Dramatiq sends it in a hook after the body. There nobody hears of an error, and what is not sent then never is.
"""

from typing import TYPE_CHECKING, cast

import structlog
from dramatiq import Broker, Message, MessageProxy
from dramatiq.middleware import GroupCallbacks, Pipelines
from dramatiq.rate_limits import RateLimiterBackend

from shared.broker.engine import Engine
from shared.errors import InvalidInput, TaskIdTaken

if TYPE_CHECKING:
    from shared.broker.broker import TaskBroker

_log = structlog.get_logger(__name__)


class Chains(Pipelines):
    """Dramatiq's Pipelines. A task whose next cannot be sent has failed: else its chain would wait for ever."""

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: object = None, exception: BaseException | None = None
    ) -> None:
        try:
            super().after_process_message(broker, message, result=result, exception=exception)  # type: ignore[no-untyped-call]
        except TaskIdTaken as taken:  # the chain has been stopped, or an earlier run of this task has sent it
            _log.info("not_followed", task_id=message.message_id, why=str(taken))
        except InvalidInput as error:
            message.stuff_exception(error)
            message.fail()


class GroupCalls(GroupCallbacks):
    """Dramatiq's GroupCallbacks, with a count in the engine that knows each member."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(_Groups(engine))

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,  # noqa: ARG002
        exception: BaseException | None = None,
    ) -> None:
        group = message.options.get("group_completion_uuid")
        callbacks = message.options.get("group_completion_callbacks")
        if exception is None and not message.failed and group and callbacks:
            cast("TaskBroker", broker).arrive(group, message.message_id, [Message(**each) for each in callbacks])


class _Groups(RateLimiterBackend):
    """What Dramatiq's `group` opens its barrier with."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, key: str, value: int, _ttl: int) -> bool:
        self._engine.open_group(key, value)
        return True
