"""Declarations of tasks, and where the settings send them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from shared.errors import NotConnected, SettingsError
from shared.services import routes_of
from shared.settings import Settings
from shared.tasks.catalog import CATALOG, EXAMS, RESERVED, mark_absent, print_message, send_digest, sweep
from shared.tasks.routes import Routes, Rule
from shared.tasks.task import Task, task

SECOND = timedelta(seconds=1)
TOGETHER_NEEDS = "together needs one argument, no default, and a body that runs in a thread"


@task(queue="slow", is_public=True)
def report(name: str, pages: int = 1) -> None:
    """Writes a report.

    A long one.
    """


def test_a_declaration_takes_its_name_arguments_and_description_from_the_function() -> None:
    assert (report.name, report.queue, report.is_public) == ("report", "slow", True)
    assert report.arguments.names == ("name", "pages")
    assert report.arguments.types == {"name": str, "pages": int, "return": type(None)}
    assert report.description == "Writes a report.\n\nA long one."


def test_a_declared_task_is_no_function() -> None:
    """Whoever calls it is told what to do."""
    with pytest.raises(TypeError, match="report is declared here; its body is in worker/actors/: send it with delay"):
        report("sales")


def test_a_process_that_is_not_connected_says_so() -> None:
    with pytest.raises(NotConnected, match=r"shared\.services\.connect"):
        report.delay("sales")


def declare(**options: Any) -> Task[..., None]:
    @task(**options)
    def declared(pk: str) -> None:
        """Nothing."""

    return declared


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"queue": ""}, "queue must be 1 to 100 bytes"),
        ({"queue": "ß" * 51}, "queue must be 1 to 100 bytes"),
        ({"priority": -1}, "priority must be 0 to 9"),
        ({"priority": 10}, "priority must be 0 to 9"),
        ({"max_retries": -1}, "max_retries must be 0 or more"),
        ({"min_backoff": timedelta()}, "min_backoff must be at least a millisecond"),
        ({"min_backoff": 2 * SECOND, "max_backoff": SECOND}, "min_backoff must not be longer than max_backoff"),
        ({"keep": -SECOND}, "keep must be at least a millisecond"),
        ({"time_limit": timedelta()}, "time_limit must be at least a millisecond"),
        ({"soft_time_limit": timedelta(microseconds=999)}, "soft_time_limit must be at least a millisecond"),
        ({"soft_time_limit": SECOND, "time_limit": SECOND}, "soft_time_limit must be shorter than time_limit"),
        ({"soft_time_limit": 2 * SECOND, "time_limit": SECOND}, "soft_time_limit must be shorter than time_limit"),
        ({"in_thread": True, "isolated": True}, "in_thread excludes isolated and soft_time_limit"),
        ({"in_thread": True, "soft_time_limit": SECOND}, "in_thread excludes isolated and soft_time_limit"),
        ({"together": 0}, "together 1 or more"),
        ({"together": 2, "isolated": True}, TOGETHER_NEEDS),
        ({"together": 2, "time_limit": SECOND}, TOGETHER_NEEDS),
    ],
)
def test_a_declaration_that_contradicts_itself_names_the_task_and_why(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^declared: .*{said}"):
        declare(**options)


def test_a_task_that_runs_together_with_others_has_one_argument() -> None:
    with pytest.raises(ValueError, match="together needs one argument"):

        @task(together=2)
        def declared(one: str, another: str) -> None:
            """Nothing."""


@pytest.mark.parametrize(
    "options",
    [
        {"queue": "ß" * 50},
        {"priority": 0},
        {"priority": 9, "max_retries": 0, "min_backoff": SECOND, "max_backoff": SECOND},
        {"soft_time_limit": SECOND, "time_limit": SECOND + timedelta(milliseconds=1)},
        {"in_thread": True, "time_limit": SECOND, "together": 100},
    ],
)
def test_a_declaration_may_go_to_the_limits(options: dict[str, Any]) -> None:
    declare(**options)


@pytest.mark.parametrize(
    ("options", "needs_child"),
    [
        ({}, False),
        ({"isolated": True}, True),
        ({"time_limit": SECOND}, True),
        ({"soft_time_limit": SECOND}, True),
        ({"time_limit": SECOND, "in_thread": True}, False),
    ],
)
def test_a_task_with_a_limit_needs_a_child_process(options: dict[str, Any], needs_child: bool) -> None:
    assert declare(**options).needs_child is needs_child


def test_the_catalog_knows_its_tasks_by_their_names() -> None:
    """What ends exams is kept by itself, and nobody sends it over REST."""
    assert all(name == each.name for name, each in CATALOG.items())
    assert {name for name, each in CATALOG.items() if each.queue in RESERVED} == {"mark_absent", "sweep"}
    assert [name for name, each in CATALOG.items() if each.is_public] == ["print_message"]
    assert all(each.description for each in CATALOG.values())


# Routes

ALL = (report, *CATALOG.values())


def routes(*rules: tuple[str, str], reserved: Sequence[str] = RESERVED) -> Routes:
    return Routes(ALL, [Rule(*rule) for rule in rules], reserved)


@pytest.mark.parametrize(
    ("rules", "queue"),
    [
        ([], "slow"),
        ([("print_message", "mail")], "slow"),
        ([("report", "mail")], "mail"),
        ([("rep*", "mail")], "mail"),
        ([("*", "mail")], "mail"),
        ([("repor?", "mail")], "mail"),
        ([("repo?", "mail")], "slow"),
        ([("eport", "mail")], "slow"),
        ([("report?", "mail")], "slow"),
        ([("report", "mail"), ("*", "other")], "mail"),
        ([("*", "other"), ("report", "mail")], "other"),
    ],
)
def test_the_first_rule_that_matches_the_whole_name_says_the_queue(rules: list[tuple[str, str]], queue: str) -> None:
    """Else it is the task's own."""
    assert routes(*rules).queue_of(report) == queue


def test_the_tasks_of_a_reserved_queue_stay_there() -> None:
    """No rule moves them, and no call."""
    everything = routes(("*", "other"))
    assert [everything.queue_of(each) for each in (mark_absent, sweep)] == [EXAMS, EXAMS]
    assert [everything.queues_for(each) for each in (mark_absent, sweep)] == [(EXAMS,), (EXAMS,)]


def test_no_rule_leads_to_a_reserved_queue() -> None:
    """The deadlines of exams would wait behind what it brings."""
    with pytest.raises(SettingsError, match=r"^INVIGIL_ROUTES cannot be used: exams is for tasks declared for it$"):
        routes(("print_*", "mail"), ("report", EXAMS))
    assert routes(("report", EXAMS), reserved=()).queue_of(report) == EXAMS


def test_a_call_may_name_any_queue_but_reserved_ones() -> None:
    """Those of the tasks and those of the rules, also where no task is at home."""
    some = routes(("unknown_*", "other"), ("report", "other"))
    assert some.queues == ("slow", *dict.fromkeys(each.queue for each in CATALOG.values()), "other")
    assert set(some.queues_for(report)) == set(some.queues) - {EXAMS}
    assert some.queues_for(report) == some.queues_for(send_digest) == some.queues_for(print_message)


def test_rules_come_from_the_settings() -> None:
    settings = Settings.from_environ({"INVIGIL_ROUTES": "send_*=slow, print_message=mail"})
    assert routes_of(settings).queue_of(send_digest) == "slow"
    assert routes_of(settings).queue_of(print_message) == "mail"
    assert routes_of(settings).queues == (EXAMS, "mail", "default", "slow")
