"""The body of the task that mails a digest."""

from collections.abc import Callable

from shared.services import Services
from shared.settings import need
from shared.tasks import catalog
from worker.bodies import made_for
from worker.digest import Digests
from worker.mail import open_mailer


@made_for(catalog.send_digest)
def _send_digest(services: Services) -> Callable[[str], None]:
    settings = services.settings
    mailer = open_mailer(need(settings.mail_url, "MAIL_URL"))
    sender, recipients = need(settings.mail_from, "MAIL_FROM"), need(settings.mail_to, "MAIL_TO")
    return send_digest(Digests(services.digests, mailer, services.clock, sender, recipients, settings.namespace))


def send_digest(digests: Digests) -> Callable[[str], None]:
    """Sends what earlier windows left unsent, then this window's digest."""

    def body(window: str) -> None:
        digests.send(window)

    return body
