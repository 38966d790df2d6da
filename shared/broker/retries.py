"""Which runs that raised are tried again."""

import dramatiq
from dramatiq import Broker, MessageProxy
from dramatiq.middleware import Retries
from dramatiq.middleware import TimeLimitExceeded as ThreadTimeLimitExceeded

from shared.errors import SoftTimeLimitExceeded, TaskFailed, TimeLimitExceeded, Verdict, WorkerLost


class FailedInChild(TaskFailed):
    """What a body has raised in a child process, where it has been seen whether the task is to be tried again."""

    def __init__(self, type_: str, message: str, traceback: str | None, *, is_retried: bool = False) -> None:
        super().__init__(type_, message, traceback)
        self.is_retried = is_retried


class RetryLater(dramatiq.Retry):
    """A body wants to be tried again, and has seen that it may: after `delay` ms or the usual pause."""

    def __init__(self, delay: int | None) -> None:
        super().__init__("", delay)


class AutoRetries(Retries):
    """Dramatiq's Retries, for exceptions that the actor's option `autoretry_for` lists, and for Retry."""

    @property
    def actor_options(self) -> set[str]:
        return {*super().actor_options, "autoretry_for"}

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: object = None, exception: BaseException | None = None
    ) -> None:
        if exception is None:
            return
        listed = broker.get_actor(message.actor_name).options.get("autoretry_for", ())
        if not is_retried(exception, listed):
            message.fail()
            return
        said = {name: message.options[name] for name in ("max_retries",) if name in message.options}
        if isinstance(exception, RetryLater):
            message.options["max_retries"] = None  # for this once
        super().after_process_message(broker, message, result=result, exception=exception)  # type: ignore[no-untyped-call]
        message.options.pop("max_retries", None)
        message.options.update(said)


def is_retried(exception: BaseException, listed: tuple[type[BaseException], ...]) -> bool:
    """Limits and lost processes have to be listed themselves, Exception does not cover them; and what a body says about
    its own end is never tried again.
    """
    if isinstance(exception, FailedInChild):
        return exception.is_retried
    if isinstance(exception, ThreadTimeLimitExceeded):
        return TimeLimitExceeded in listed
    if isinstance(exception, SoftTimeLimitExceeded | TimeLimitExceeded | WorkerLost):
        return type(exception) in listed
    if isinstance(exception, Verdict):
        return False
    return isinstance(exception, (dramatiq.Retry, *listed))
