"""How uvicorn serves the API inside gunicorn's processes."""

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker

CONNECTIONS = 2_000  # a process; more are answered 503 at once, before they use up its file descriptors


class ApiWorker(UvicornWorker):  # type: ignore[misc]  # uvicorn-worker has no types
    """uvloop and httptools, both in C. X-Forwarded headers are left alone: nothing here asks where a call came from."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "httptools",
        "lifespan": "on",
        "proxy_headers": False,
        "server_header": False,
        "limit_concurrency": CONNECTIONS,
    }
