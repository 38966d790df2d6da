"""The body of the task that clears away what nobody needs any more."""

from collections.abc import Callable

from shared.broker.engine import Engine
from shared.clock import Clock
from shared.idempotency import IdempotencyKeys
from shared.services import Services
from shared.tasks import catalog
from shared.tasks.payloads import Payloads
from worker.bodies import made_for


@made_for(catalog.clear_away)
def _clear_away(services: Services) -> Callable[[], None]:
    return clear_away(services.payloads, services.idempotency, services.broker.engine, services.clock)


def clear_away(payloads: Payloads, idempotency: IdempotencyKeys, engine: Engine, clock: Clock) -> Callable[[], None]:
    """Goes on until nothing is left that is old enough."""

    def body() -> None:
        while payloads.clear(engine.known, clock.now()):
            pass
        while idempotency.clear(clock.now()):
            pass

    return body
