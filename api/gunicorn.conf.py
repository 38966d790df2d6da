"""gunicorn's settings. Read in the master process, so a bad setting of ours stops the boot here."""

import gc
import logging
import os
import sys

import structlog
from gunicorn.glogging import Logger

from api.address import check_free
from shared.clock import SystemClock
from shared.errors import SettingsError
from shared.logs import configure_logs
from shared.services import open_stores
from shared.settings import Settings, need

try:
    _settings = Settings.from_environ(os.environ)
    need(_settings.keys, "KEYS")
    open_stores(need(_settings.store, "STORE"), SystemClock())
except SettingsError as error:
    sys.exit(f"api: {error}")

configure_logs(_settings.log_format, "api")
_log = structlog.get_logger(__name__)


class RootLogger(Logger):  # type: ignore[misc]  # gunicorn publishes no types
    """Writes gunicorn's own lines, and uvicorn's, as the root logger writes all others.

    The list itself is shared, not copied: uvicorn-worker hands it on to uvicorn, whose lines it keeps from the root.
    """

    def setup(self, cfg: object) -> None:
        del cfg
        self.error_log.handlers = logging.getLogger().handlers


def on_starting(_server: object) -> None:
    """Once, not at each reload: then the address is taken by our own processes."""
    try:
        check_free(_settings.bind)
    except SettingsError as error:
        sys.exit(f"api: {error}")


def when_ready(_server: object) -> None:
    _log.info("api_started", bind=_settings.bind)  # gunicorn's own line cannot tell where its processes will listen


def post_worker_init(_worker: object) -> None:
    """What has been made by now lives as long as the process, and a request makes no cycles: the garbage collector may
    leave the one alone and look at the other seldom.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


bind = _settings.bind
# Each process listens on a socket of its own, and the kernel spreads connections over them. On one shared socket the
# process that happens to be awake takes nearly all that come close together: of 16 opened at once often all.
reuse_port = True
worker_class = "api.server.ApiWorker"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))  # gunicorn's own variable
keepalive = 15
timeout = 30
graceful_timeout = 25  # below the 30 s that container platforms leave a process
control_socket_disable = True
worker_tmp_dir = "/dev/shm"  # a heartbeat file on a disk would wait for that disk
accesslog = None  # api/middleware.py logs each request, with its id
logger_class = RootLogger
