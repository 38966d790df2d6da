"""Files sent part by part: clients may take long to read them, and must not keep others waiting."""

import asyncio
from collections.abc import AsyncIterator, Callable

from falcon.asgi import Request, Response

from api.bodies import client_gone
from api.threads import Threads
from shared.errors import Unavailable
from shared.exams.disk import OpenFile

DOWNLOADS = 50  # at once; each has a file open
READERS = 2  # of their own: who waits for exams does not wait for large files
PART = 64 * 1024


class Downloads:
    """Sends DOWNLOADS files at once. What is left unread too long ends with its connection (api/server.py)."""

    def __init__(self) -> None:
        self._threads = Threads("downloads", READERS)
        self._room = DOWNLOADS

    async def begin(self, req: Request, resp: Response, open_file: Callable[[str], OpenFile], name: str) -> None:
        """Raises what `open_file` raises, and Unavailable where too many are under way."""
        if self._room == 0:
            raise Unavailable("too many large results are being sent")
        self._room -= 1
        try:
            file = await self._threads.run(open_file, name)
        except BaseException:
            self._room += 1
            raise
        resp.content_length = file.size
        resp.stream = self._parts(req, file)

    def close(self) -> None:
        self._threads.close()

    async def _parts(self, req: Request, file: OpenFile) -> AsyncIterator[bytes]:
        gone = asyncio.ensure_future(client_gone(req))
        try:
            with file:
                while not gone.done() and (part := await self._threads.run(file.read, PART)):
                    yield part
        finally:
            gone.cancel()
            self._room += 1
