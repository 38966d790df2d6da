"""Logs: one event a line on standard error, JSON for machines or coloured for people.

Standard output is left to the messages that print_message prints. Event names are constant; what varies is a field.
Arguments of tasks are never logged: a message's text is its sender's.
"""

import logging
import sys
from collections.abc import Mapping

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger


def configure_logs(log_format: str, process: str) -> None:
    """Sends structlog's and the standard library's events the same way. `process` is a field of each line."""

    def add_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_process,
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer()
        if log_format == "console"
        else structlog.processors.JSONRenderer(serializer=_to_json)
    )
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_hide_task_arguments)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=processors, processors=[_strip, renderer])
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("apscheduler").setLevel(logging.WARNING)  # it tells of each run twice


def _strip(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(logger, method, event)


def _to_json(event: EventDict, **_options: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def _hide_task_arguments(record: logging.LogRecord) -> bool:
    """Dramatiq logs a message as a call with all its arguments; here it becomes the task's name and id."""
    if isinstance(record.args, tuple):
        record.args = tuple(_task_name(argument) for argument in record.args)
    elif isinstance(record.args, Mapping):
        record.args = {name: _task_name(argument) for name, argument in record.args.items()}
    return True


def _task_name(argument: object) -> object:
    if hasattr(argument, "actor_name") and hasattr(argument, "message_id"):
        return f"{argument.actor_name}[{argument.message_id}]"
    return argument
