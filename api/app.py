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
from api.resources.messages import MessageCollection
from api.sending import send_messages
from api.threads import Threads
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
    threads = Threads()
    health = HealthCheck(services.exams, keys, services.redis, services.breaker, clock)

    app = WholeRequests(
        middleware=[
            RequestLog(),
            Authentication(keys, clock),
            OrderlyEnd(starts.close, results.close, messages.close, threads.close),
        ]
    )
    app.req_options.keep_blank_qs_values = True  # `?status=` is a bad value, not an absent one
    Problems(clock).register(app)

    app.add_route("/v1/exams", ExamCollection(starts, register, threads, clock, settings.exam_duration))
    app.add_route("/v1/exams/{pk}", ExamItem(register, threads, clock))
    app.add_route("/v1/exams/{pk}/events", ExamEvents(register, threads))
    app.add_route("/v1/exams/{pk}/result", ExamResult(results, clock))
    app.add_route("/v1/messages", MessageCollection(messages, clock))
    app.add_route("/livez", Alive())
    app.add_route("/startupz", Alive())
    app.add_route("/readyz", Ready(health, threads))
    return app
