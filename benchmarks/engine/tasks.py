"""The benchmarks' own tasks, for our broker and for Dramatiq's alike."""

import os
import threading
import time
from typing import Any, NamedTuple

import dramatiq
from dramatiq import Actor, Broker

QUEUE = "default"


class Tasks(NamedTuple):
    """`tell` writes its name and the time of its begin; `hold` does so and then never returns where `is_held`."""

    noop: "Actor[[], None]"
    tell: "Actor[[str], None]"
    hold: "Actor[[str], None]"


def declare(broker: Broker, *, is_held: bool = False) -> Tasks:
    def noop() -> None:
        pass

    def tell(name: str) -> None:
        os.write(1, f"{name} {time.time_ns()}\n".encode())  # one write: lines of other threads cannot come in between

    def hold(name: str) -> None:
        tell(name)
        if is_held:
            threading.Event().wait()

    def actor(body: Any) -> Any:
        return dramatiq.actor(broker=broker, queue_name=QUEUE)(body)

    return Tasks(actor(noop), actor(tell), actor(hold))
