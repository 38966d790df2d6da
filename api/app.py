"""The API: every route on one screen."""

from falcon.asgi import App, Request, Response

from api.address import CONNECTIONS
from api.batches import Batches
from api.bodies import WholeRequests
from api.downloads import Downloads
from api.health import HealthCheck
from api.keys import KeyFile
from api.long_polls import LongPolls, look_ups
from api.middleware import Authentication, OrderlyEnd, RequestLog
from api.problems import Problems
from api.resources.catalog import Catalog, Queues, Workers
from api.resources.dead import DeadCollection, DeadItem
from api.resources.docs import DOCUMENT, ApiDocument, DocsFile, DocsPage
from api.resources.exams import ExamCollection, ExamEvents, ExamItem, ExamResult
from api.resources.health import Alive, Ready
from api.resources.messages import MessageCollection, send_messages
from api.resources.tasks import TaskCollection, TaskItem, TaskResult, TaskRetry
from api.threads import CALLERS, READERS, Threads
from shared.broker.states import TaskState
from shared.exams.keyed_starts import KeyedStart, KeyedStarts, Sitting
from shared.exams.model import Exam
from shared.exams.register import Result, Start
from shared.services import Services
from shared.settings import need
from shared.tasks.calls import Taken, TaskCall, TaskCalls
from shared.tasks.catalog import print_message
from shared.tasks.dead_letters import DeadLetters
from shared.tasks.listing import TaskLists


def create_app(services: Services) -> "App[Request, Response]":
    """An ASGI application on these services. Raises SettingsError where a setting it needs is missing."""
    clock, register, settings = services.clock, services.register, services.settings
    sender, engine, queues = services.sender, services.sender.engine, services.sender.routes
    keys = KeyFile(need(settings.keys, "KEYS"))
    starts: Batches[Start, Exam] = Batches("starts", register.start)
    keyed_starts = KeyedStarts(register, services.idempotency, clock)
    keyed: Batches[KeyedStart, Sitting] = Batches("keyed starts", keyed_starts.start)
    results: Batches[Result, Exam] = Batches("results", register.record_results)
    messages: Batches[str, str] = Batches("messages", send_messages(sender))
    task_calls = TaskCalls(sender, services.idempotency)
    calls: Batches[TaskCall, Taken] = Batches("calls", task_calls.send)
    keyed_calls: Batches[TaskCall, Taken] = Batches("keyed calls", task_calls.send_keyed)
    states: Batches[str, TaskState] = Batches("states", look_ups(engine), CONNECTIONS)
    long_polls = LongPolls(states.do, sender.endings)
    lists, dead_letters = TaskLists(engine), DeadLetters(sender, services.tasks)
    callers = Threads("callers", CALLERS)
    readers = Threads("readers", READERS)
    downloads = Downloads()
    prober = Threads("prober", 1)  # of its own: an API busy with lists is not an unhealthy one
    health = HealthCheck(services.exams, keys, services.redis, services.breaker, clock)

    batches = (starts, keyed, results, messages, calls, keyed_calls, states)
    at_work = (*batches, callers, readers, downloads, prober, long_polls)

    app = WholeRequests(
        middleware=[
            RequestLog(),
            Authentication(keys, clock),
            OrderlyEnd(long_polls.stop, [each.close for each in at_work]),
        ]
    )
    app.req_options.keep_blank_qs_values = True  # `?status=` is a bad value, not an absent one
    Problems(clock).register(app)

    routes: dict[str, object] = {
        "/v1/exams": ExamCollection(starts, keyed, register, readers, clock, settings.exam_duration),
        "/v1/exams/{pk}": ExamItem(register, readers, clock),
        "/v1/exams/{pk}/events": ExamEvents(register, readers),
        "/v1/exams/{pk}/result": ExamResult(results, clock),
        "/v1/messages": MessageCollection(messages, keyed_calls, queues.queue_of(print_message), clock),
        "/v1/tasks": TaskCollection(calls, keyed_calls, services.tasks, lists, queues, callers),
        "/v1/tasks/{id}": TaskItem(long_polls, sender, services.tasks, callers),
        "/v1/tasks/{id}/result": TaskResult(states, services.payloads, downloads),
        "/v1/tasks/{id}/retry": TaskRetry(dead_letters, callers),
        "/v1/dead": DeadCollection(lists, queues, callers),
        "/v1/dead/{id}": DeadItem(dead_letters, callers),
        "/v1/dead/{id}/retry": TaskRetry(dead_letters, callers),
        "/v1/catalog": Catalog(services.tasks, queues),
        "/v1/queues": Queues(engine, queues, callers),
        "/v1/workers": Workers(engine, callers),
        "/livez": Alive(),
        "/startupz": Alive(),
        "/readyz": Ready(health, prober),
        "/docs": DocsPage(),
        "/docs/{name}": DocsFile(),
    }
    routes[DOCUMENT] = ApiDocument(routes)
    for path, resource in routes.items():
        app.add_route(path, resource)
    return app
