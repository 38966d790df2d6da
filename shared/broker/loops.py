"""A thread of a worker that goes round until it is stopped, and goes on after Redis has been away."""

import threading

import redis
import structlog

from shared.errors import BrokerUnavailable

TRY_AGAIN_S = 0.5
# At a time. What is missed costs no more than a second, as often as the promoter looks; with that an idle process asks
# Redis less than twice a second.
LISTEN_S = 1.25

_log = structlog.get_logger(__name__)


class Loop(threading.Thread):
    """Calls `turn` again and again."""

    def __init__(self) -> None:
        super().__init__(name=type(self).__name__, daemon=True)
        self.stopping = threading.Event()

    def turn(self) -> None:
        """Raises BrokerUnavailable or redis.RedisError where Redis fails."""
        raise NotImplementedError

    def broke_off(self) -> None:
        """Redis has failed; called before every new try."""

    def run(self) -> None:
        is_away = False
        while not self.stopping.is_set():
            try:
                self.turn()
            except (BrokerUnavailable, redis.RedisError) as error:
                if not is_away:
                    _log.warning("redis_away", loop=self.name, why=str(error))
                is_away = True
                self.broke_off()
                self.stopping.wait(TRY_AGAIN_S)
            except Exception:  # noqa: BLE001 - a worker without this loop would be worse off than with one that stumbles
                _log.exception("loop_stumbled", loop=self.name)
                self.stopping.wait(TRY_AGAIN_S)
            else:
                if is_away:
                    _log.info("redis_back", loop=self.name)
                is_away = False

    def stop(self) -> None:
        """Returns at once; `join` waits for the turn to end."""
        self.stopping.set()
