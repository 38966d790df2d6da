"""Round trips to Redis that the threads of a worker share.

Each thread asks Redis before and after every run. One at a time goes, and takes along what the others have come up with
meanwhile: with eight busy threads that is a third of the trips, and of the waiting for Python's one lock.

Never used inside a body, which may be interrupted anywhere: that would leave the others waiting.
"""

import threading
from collections.abc import Sequence
from typing import Any, cast

import redis
from redis.connection import AbstractConnection

from shared.broker.scripts import Call, with_loading


class _Traveller:
    """The calls of one thread, and what came back."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls
        self.answers: list[Any] | None = None
        self.error: BaseException | None = None
        self.turn = threading.Lock()
        self.turn.acquire()

    @property
    def is_back(self) -> bool:
        return self.answers is not None or self.error is not None


class SharedRoundTrips:
    """An Exchange over one connection of its own, made as `client` makes its own. Raises redis.RedisError in every
    thread whose calls were on a trip that failed.
    """

    def __init__(self, client: "redis.Redis") -> None:
        self._exchange = with_loading(self._send_and_receive, client)
        self._connection = cast(AbstractConnection, client.connection_pool.make_connection())
        self._lock = threading.Lock()
        self._waiting: list[_Traveller] = []
        self._is_under_way = False

    def __call__(self, calls: Sequence[Call]) -> list[Any]:
        traveller = _Traveller(calls)
        with self._lock:
            self._waiting.append(traveller)
            leads = not self._is_under_way
            self._is_under_way = True
        if not leads:
            traveller.turn.acquire()
            leads = not traveller.is_back
        if leads:
            self._travel(traveller)
        if traveller.error is not None:
            raise traveller.error
        return traveller.answers or []

    def close(self) -> None:
        """Until the next call."""
        self._connection.disconnect()  # type: ignore[no-untyped-call]

    def _travel(self, leader: _Traveller) -> None:
        """Goes for all who wait; then the first of those who have come meanwhile goes next."""
        with self._lock:
            together, self._waiting = self._waiting, []
        try:
            calls = [call for traveller in together for call in traveller.calls]
            answers = iter(self._exchange(calls))
            for traveller in together:
                traveller.answers = [next(answers) for _ in traveller.calls]
        except BaseException as error:  # noqa: BLE001 - nobody is left waiting, and no answer for the next to read
            self.close()
            for traveller in together:
                traveller.error = error
        finally:
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._is_under_way = following is not None
            for traveller in together:
                if traveller is not leader:
                    traveller.turn.release()
            if following is not None:
                following.turn.release()

    def _send_and_receive(self, calls: Sequence[Call]) -> list[Any]:
        connection = self._connection
        packed = connection.pack_commands([(*script.head, *arguments) for script, arguments in calls])  # type: ignore[no-untyped-call]

        def exchange() -> list[Any]:
            connection.send_packed_command(packed, check_health=False)  # type: ignore[no-untyped-call]
            return [self._answer() for _ in calls]

        return connection.retry.call_with_retry(exchange, lambda _error: connection.disconnect())  # type: ignore[no-untyped-call]

    def _answer(self) -> Any:
        try:
            return self._connection.read_response()
        except redis.ResponseError as error:
            return error
