"""What gunicorn serves: `gunicorn -c api/gunicorn.conf.py api.asgi:app`."""

import os

from api.app import create_app
from shared.logs import configure_logs
from shared.services import for_callers
from shared.settings import Settings

settings = Settings.from_environ(os.environ)
configure_logs(settings.log_format, "api")
app = create_app(for_callers(settings))
