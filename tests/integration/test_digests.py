"""Every outcome is in exactly one digest, whatever fails: the real file store and a real SMTP server."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.headerregistry import Address
from itertools import count
from pathlib import Path
from threading import Barrier

import pytest

from shared.errors import InvalidInput, MailError
from shared.exams.files import event_path
from tests.support.clock import ManualClock
from tests.support.digester import DEAN, OFFICE, check_each_once, digests, exam_process, pks_by_mail, send
from tests.support.disk import ProcessEnded
from tests.support.exam_files import files_below
from tests.support.exams import store_outcomes
from tests.support.smtp_server import Fault, SmtpServer
from tests.support.waiting import eventually

FIRST, SECOND, THIRD = (f"20261120T12{minute:02}00.000Z" for minute in (5, 10, 15))

NAMES = [
    "<b>x</b>",
    "'; DROP TABLE exams; --",
    "../../etc/passwd",
    "=?utf-8?q?x?=",
    "a" * 5000,
    ".",
    "山田 👩🏽‍🎓 \u202egnp",
]


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    server = SmtpServer()
    yield server
    server.close()


def outcomes(folder: Path, number: int = 1, candidate: str = "Ada") -> list[str]:
    return store_outcomes(exam_process(folder).exams, number, candidate)


def unsent(folder: Path) -> list[str]:
    return exam_process(folder).digests.unsent()


def test_each_window_tells_of_what_ended_since_the_one_before(tmp_path: Path, smtp: SmtpServer) -> None:
    """Nothing twice, nothing left out; a window in which nothing happened says so."""
    worker = digests(tmp_path, smtp.url)
    early = outcomes(tmp_path, 3)
    worker.send(FIRST)
    late = outcomes(tmp_path, 2)
    worker.send(SECOND)
    worker.send(THIRD)
    assert pks_by_mail(smtp) == {FIRST: sorted(early), SECOND: sorted(late), THIRD: []}
    assert b"Nothing happened" in smtp.deliveries[-1].content
    assert (len(smtp.deliveries), unsent(tmp_path)) == (3, [])


def test_a_window_sent_to_everybody_is_not_sent_again(tmp_path: Path, smtp: SmtpServer) -> None:
    """Its message was delivered twice, to workers of two processes."""
    outcomes(tmp_path, 2)
    for _ in range(2):
        digests(tmp_path, smtp.url).send(FIRST)
    assert len(smtp.deliveries) == 1


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("MAIL", "451 later"),
        ("RCPT", "450 busy"),
        ("DATA", "451 later"),
        ("DATA", "554 refused"),
        ("MAIL", Fault.CUT),
        ("DATA", Fault.CUT_AMIDST),
        ("DATA", Fault.CUT),
        ("DATA", Fault.KEEP_AND_CUT),
    ],
)
def test_a_failed_digest_is_tried_again_with_the_same_content(
    tmp_path: Path, smtp: SmtpServer, command: str, fault: str | Fault
) -> None:
    """What ended since is left to the next window, so a mail that did arrive is repeated and never contradicted."""
    worker = digests(tmp_path, smtp.url)
    early = outcomes(tmp_path, 3)
    smtp.fail(command, fault, fault)
    for _ in range(2):
        with pytest.raises(MailError):
            worker.send(FIRST)
    late = outcomes(tmp_path, 2)
    worker.send(FIRST)
    worker.send(SECOND)
    assert pks_by_mail(smtp) == {FIRST: sorted(early), SECOND: sorted(late)}
    assert unsent(tmp_path) == []


def test_windows_that_were_not_sent_are_finished_by_the_next_run(tmp_path: Path, smtp: SmtpServer) -> None:
    """The server was away longer than the task is retried; whichever window comes next sends both."""
    early = outcomes(tmp_path, 2)
    smtp.fail("MAIL", *["421 closing"] * 3)
    for _ in range(3):
        with pytest.raises(MailError):
            digests(tmp_path, smtp.url).send(FIRST)
    late = outcomes(tmp_path)
    digests(tmp_path, smtp.url).send(THIRD)
    assert pks_by_mail(smtp) == {FIRST: sorted(early), THIRD: late}
    assert (len(smtp.deliveries), unsent(tmp_path)) == (2, [])


def test_a_mail_that_is_refused_for_good_holds_no_later_one_up(tmp_path: Path, smtp: SmtpServer) -> None:
    """A window too large for the server stays unsent and is said to be; those after it go out."""
    early = outcomes(tmp_path, 2)
    smtp.fail("DATA", "552 too large", "552 too large")
    with pytest.raises(MailError, match="552"):
        digests(tmp_path, smtp.url).send(FIRST)
    late = outcomes(tmp_path)
    with pytest.raises(MailError, match=f"{FIRST}: .*552"):
        digests(tmp_path, smtp.url).send(SECOND)
    assert (pks_by_mail(smtp), unsent(tmp_path)) == ({SECOND: late}, [FIRST])
    digests(tmp_path, smtp.url).send(THIRD)
    assert pks_by_mail(smtp) == {FIRST: sorted(early), SECOND: late, THIRD: []}


def test_a_refused_recipient_costs_the_others_nothing(tmp_path: Path, smtp: SmtpServer) -> None:
    """They get the mail once; the one refused gets the same mail as soon as the server takes it."""
    pks = outcomes(tmp_path, 2)
    others = [DEAN, Address(addr_spec="archive@example.org")]
    smtp.refuse(OFFICE.addr_spec, "550 no such user")
    for _ in range(2):
        with pytest.raises(MailError, match="550: no such user"):
            digests(tmp_path, smtp.url, [DEAN, OFFICE, others[1]]).send(FIRST)
    assert [delivery.recipient for delivery in smtp.deliveries] == [other.addr_spec for other in others]
    smtp.accept(OFFICE.addr_spec)
    digests(tmp_path, smtp.url, [DEAN, OFFICE, others[1]]).send(FIRST)
    assert len(smtp.deliveries) == 3
    assert {delivery.content for delivery in smtp.deliveries} == {smtp.deliveries[0].content}
    check_each_once(smtp, pks, OFFICE)


def test_a_refused_recipient_is_tried_once_a_run_and_given_up_after_days(tmp_path: Path, smtp: SmtpServer) -> None:
    """However many windows wait for it; then the oldest is closed and the others go on."""
    clock = ManualClock(datetime(2026, 11, 20, 12, 10, tzinfo=UTC))
    smtp.refuse(OFFICE.addr_spec, "550 no such user")
    worker = digests(tmp_path, smtp.url, [DEAN, OFFICE], clock=clock)
    for window in (FIRST, SECOND, THIRD):
        with pytest.raises(MailError, match=f"{FIRST}: .*550"):
            worker.send(window)
    assert (smtp.commands.count("MAIL"), len(smtp.deliveries)) == (3 + 3, 3)
    clock.set(datetime(2026, 11, 23, 12, 5, tzinfo=UTC))
    with pytest.raises(MailError, match="550"):
        worker.send(THIRD)
    assert unsent(tmp_path) == [SECOND, THIRD]


def test_an_outcome_without_its_record_is_left_out(tmp_path: Path, smtp: SmtpServer) -> None:
    """As after a backup taken while the exam ended: the digest tells of the others."""
    lost, kept = outcomes(tmp_path, 2)
    (tmp_path / event_path(lost, 2)).unlink()
    digests(tmp_path, smtp.url).send(FIRST)
    assert (pks_by_mail(smtp), unsent(tmp_path)) == ({FIRST: [kept]}, [])


@pytest.mark.parametrize(("number", "sizes"), [(2, [2]), (3, [3]), (4, [3, 1]), (6, [3, 3]), (7, [3, 3, 1])])
def test_many_outcomes_go_into_parts(tmp_path: Path, smtp: SmtpServer, number: int, sizes: list[int]) -> None:
    """Each a mail of its own, none larger than servers take, and none empty after a full one."""
    pks = outcomes(tmp_path, number)
    digests(tmp_path, smtp.url, largest=3).send(FIRST)
    mails = pks_by_mail(smtp)
    assert list(mails) == [FIRST, f"{FIRST}.2", f"{FIRST}.3"][: len(sizes)]
    assert [len(mail) for mail in mails.values()] == sizes
    check_each_once(smtp, pks)
    assert unsent(tmp_path) == []


def test_parts_after_a_failed_one_are_sent_when_it_is(tmp_path: Path, smtp: SmtpServer) -> None:
    """The second of three was cut off; trying the window again sends it and the third, and not the first."""
    pks = outcomes(tmp_path, 7)
    worker = digests(tmp_path, smtp.url, largest=3)
    smtp.fail("MAIL", "250 OK", "421 closing")
    with pytest.raises(MailError):
        worker.send(FIRST)
    worker.send(FIRST)
    assert [len(mail) for mail in pks_by_mail(smtp).values()] == [3, 3, 1]
    assert len(smtp.deliveries) == 3
    check_each_once(smtp, pks)


@pytest.mark.parametrize("then", [FIRST, SECOND])
def test_a_worker_that_ends_at_any_step_loses_and_doubles_nothing(tmp_path: Path, smtp: SmtpServer, then: str) -> None:
    """Before each system call of a digest in turn; another worker goes on, with the same window or with the next."""
    for at in count(1):
        folder = tmp_path / str(at)
        pks = outcomes(folder, 2)
        smtp.deliveries.clear()
        try:
            digests(folder, smtp.url, [DEAN, OFFICE], watch=_end_before(at)).send(FIRST)
        except ProcessEnded:
            digests(folder, smtp.url, [DEAN, OFFICE]).send(then)
        else:
            break
        for recipient in (DEAN, OFFICE):
            check_each_once(smtp, pks, recipient)
        mails = [(delivery.recipient, delivery.message["Message-ID"]) for delivery in smtp.deliveries]
        assert len(mails) - len(set(mails)) <= 1  # only one that was handed over and not yet noted is sent again
        assert files_below(folder, "outbox") == files_below(folder, "unsent") == []
    assert at > 20


def test_a_worker_killed_between_hand_over_and_note_sends_the_same_mail_again(tmp_path: Path, smtp: SmtpServer) -> None:
    """`kill -9` while the server, which has the mail, has not said so: same Message-ID, same bytes, nothing else."""
    early = outcomes(tmp_path, 2)
    smtp.fail("DATA", Fault.KEEP_AND_WAIT)
    worker = multiprocessing.get_context("spawn").Process(target=send, args=(tmp_path, smtp.url, FIRST))
    worker.start()
    eventually(lambda: smtp.deliveries, 20, "the mail's arrival")
    worker.kill()
    worker.join(10)
    late = outcomes(tmp_path)
    digests(tmp_path, smtp.url).send(SECOND)
    assert pks_by_mail(smtp) == {FIRST: sorted(early), SECOND: late}
    assert len(smtp.deliveries) == 3


@pytest.mark.parametrize("windows", [(FIRST, SECOND), (FIRST, FIRST)])
def test_two_workers_at_once_never_share_an_outcome(tmp_path: Path, smtp: SmtpServer, windows: tuple[str, str]) -> None:
    """Two schedulers, or one message delivered twice: both find the same outcomes and each goes into one mail."""
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        pks = outcomes(folder, 20)
        smtp.deliveries.clear()
        start = Barrier(2)

        def run(window: str, folder: Path = folder, start: Barrier = start) -> None:
            worker = digests(folder, smtp.url)
            start.wait(10)
            worker.send(window)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(run, windows))
        check_each_once(smtp, pks)
        assert unsent(folder) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_candidates_name_can_stop_no_digest(tmp_path: Path, smtp: SmtpServer, name: str) -> None:
    """It arrives as it is, and the mail has its headers and two parts as ever."""
    (pk,) = outcomes(tmp_path, candidate=name)
    digests(tmp_path, smtp.url).send(FIRST)
    arrived = smtp.deliveries[0].message
    text, html = arrived.iter_parts()
    assert (text.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    assert f"    candidate  {name}\r\n" in text.get_content()
    assert arrived["Subject"] == "Exams until 2026-11-20 12:05 UTC: 1 pass, 0 fail, 0 absent"
    assert pks_by_mail(smtp) == {FIRST: [pk]}


@pytest.mark.parametrize("window", ["", "today", "20261399T120000.000Z", f"{FIRST}/..", f"{FIRST}\n", f"../{FIRST}"])
def test_a_window_with_a_bad_name_is_not_begun(tmp_path: Path, smtp: SmtpServer, window: str) -> None:
    """Were it begun, every later run would try to finish it."""
    (pk,) = outcomes(tmp_path)
    with pytest.raises(InvalidInput, match="window"):
        digests(tmp_path, smtp.url).send(window)
    assert unsent(tmp_path) == []
    digests(tmp_path, smtp.url).send(FIRST)
    assert pks_by_mail(smtp) == {FIRST: [pk]}


def _end_before(at: int) -> Callable[[Callable[..., object]], None]:
    calls = count(1)

    def watch(_call: Callable[..., object]) -> None:
        if next(calls) == at:
            raise ProcessEnded

    return watch
