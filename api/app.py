"""The API: every route on one screen."""

from falcon.asgi import App, Request, Response

from api.batches import Batches
from api.bodies import WholeRequests
from api.health import HealthCheck
from api.keys import KeyFile
from api.middleware import Authentication, OrderlyEnd, RequestLog
from api.problems import Problems
from api.resources.exams import ExamCollection, ExamEvents, ExamItem, ExamResult
from api.resources.health import Alive, Ready
from api.resources.messages import MessageCollection, send_messages
from api.threads import READERS, Threads
from shared.exams.model import Exam
from shared.exams.register import Result, Start
from shared.services import Services
from shared.settings import need


def create_app(services: Services) -> "App[Request, Response]":
    """An ASGI application on these services. Raises SettingsError where a setting it needs is missing."""
    clock, register, settings = services.clock, services.register, services.settings
    keys = KeyFile(need(settings.keys, "KEYS"))
    starts: Batches[Start, Exam] = Batches("starts", register.start)
    results: Batches[Result, Exam] = Batches("results", register.record_results)
    messages: Batches[str, str] = Batches("messages", send_messages(services.sender))
    readers = Threads("readers", READERS)
    prober = Threads("prober", 1)  # of its own: an API busy with lists is not an unhealthy one
    health = HealthCheck(services.exams, keys, services.redis, services.breaker, clock)

    app = WholeRequests(
        middleware=[
            RequestLog(),
            Authentication(keys, clock),
            OrderlyEnd(starts.close, results.close, messages.close, readers.close, prober.close),
        ]
    )
    app.req_options.keep_blank_qs_values = True  # `?status=` is a bad value, not an absent one
    Problems(clock).register(app)

    app.add_route("/v1/exams", ExamCollection(starts, register, readers, clock, settings.exam_duration))
    app.add_route("/v1/exams/{pk}", ExamItem(register, readers, clock))
    app.add_route("/v1/exams/{pk}/events", ExamEvents(register, readers))
    app.add_route("/v1/exams/{pk}/result", ExamResult(results, clock))
    app.add_route("/v1/messages", MessageCollection(messages, clock))
    app.add_route("/livez", Alive())
    app.add_route("/startupz", Alive())
    app.add_route("/readyz", Ready(health, prober))
    return app
