"""Events as bytes: one JSON object each, told apart by its `event` field. Old files stay readable for good."""

from datetime import datetime

import msgspec

from shared.clock import rfc3339
from shared.exams.model import Ended, Event, Started, Void

_decoder = msgspec.json.Decoder(Started | Ended | Void)


def encode(event: Event) -> bytes:
    fields = {"event": event.__struct_config__.tag, **msgspec.structs.asdict(event)}
    return msgspec.json.encode({name: _plain(value) for name, value in fields.items()})


def decode(raw: bytes) -> Event:
    """Raises ValueError where `raw` is not an event."""
    event: Event = _decoder.decode(raw)
    return event


def _plain(value: object) -> object:
    return rfc3339(value) if isinstance(value, datetime) else value
