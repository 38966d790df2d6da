"""Dramatiq's results, kept with the state of each task instead of beside it."""

from typing import Any

from dramatiq import Message, MessageProxy
from dramatiq.results import Missing, ResultBackend, ResultFailure

from shared.broker.deliveries import HeldMessage
from shared.broker.engine import Engine
from shared.broker.states import State
from shared.errors import TaskNotFound


class EngineResults(ResultBackend):
    """What Dramatiq's Results middleware stores is noted, and travels with the acknowledgement. Every end of a task
    other than SUCCESS is a ResultFailure for who asks.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def store_result(self, message: MessageProxy, result: object, _ttl: int) -> None:
        if isinstance(message, HeldMessage) and message.result is None:  # else its run has kept it
            message.result = result

    def store_exception(self, message: MessageProxy, exception: Exception, ttl: int) -> None:
        """Nothing: the acknowledgement has taken it along already."""

    def build_message_key(self, message: Message[Any]) -> str:
        return message.message_id

    def unwrap_result(self, result: object) -> object:
        return result

    def _get(self, message_key: str) -> Any:
        try:
            state = self._engine.look_up(message_key)
        except TaskNotFound:  # the next of a pipeline is sent once the one before it has ended
            return Missing
        if state.state is State.SUCCESS:
            return state.result
        if not state.is_over:
            return Missing
        kind, message = (_name(state.error.type), state.error.message) if state.error else (str(state.state), "")
        raise ResultFailure(f"actor raised {kind}: {message}", kind, message)  # type: ignore[no-untyped-call]


def _name(type_: str) -> str:
    """Dramatiq names a class without its module."""
    return type_.rpartition(".")[2]
