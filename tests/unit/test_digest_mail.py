"""The mail of a digest: what a person reads, and what could go wrong with names that people choose."""

from collections.abc import Sequence
from email import message_from_bytes
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from html.parser import HTMLParser

import pytest

from shared.exams.model import Exam, Status
from tests.support.exams import ended_exam
from worker.digest import compose

WINDOW = "20261120T120500.000Z"
SENDER = Address(addr_spec="invigil@example.org")
RECIPIENTS = (Address(addr_spec="dean@example.org"), Address(addr_spec="office@example.org"))

SCRIPTS = [
    "Žofie Nováková",
    "Ольга Ладыженская",
    "山田太郎",
    "محمد الخوارزمي",
    "नागार्जुन",
    "👩🏽‍🎓 é",
]
MARKUP = ["<script>alert(1)</script>", "</td></tr></table>", "&amp;", "{{ 7 * 7 }}", "\"'><img src=x onerror=y>"]


class Table(HTMLParser):
    """The cells of an HTML page's table, row by row, and every tag the page has."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self._is_in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self._is_in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self._is_in_cell = False

    def handle_data(self, data: str) -> None:
        if self._is_in_cell:
            self.rows[-1][-1] += data


def mail_of(*exams: Exam) -> EmailMessage:
    return compose(WINDOW, exams, SENDER, RECIPIENTS, "invigil")


def received(message: EmailMessage) -> EmailMessage:
    """The message as its reader has it: through bytes, parsed back."""
    parsed = message_from_bytes(message.as_bytes(policy=SMTP), policy=SMTP)
    assert isinstance(parsed, EmailMessage)
    return parsed


def part(message: EmailMessage, subtype: str) -> str:
    body = received(message).get_body((subtype,))
    assert body is not None
    text = body.get_content()
    assert isinstance(text, str)
    return text


def table_of(exams: Sequence[Exam]) -> Table:
    return Table(part(mail_of(*exams), "html"))


END = f"--{mail_of().get_boundary()}--"  # the line that ends the mail's last part
LINES = ["Ada\r\nBcc: everybody@example.org", "Ada\n\n.\nQUIT", f"Ada\r\n{END}", f"Ada\r\n{END[:-2]}\r\n"]


def test_a_digest_counts_each_outcome() -> None:
    """Subject, text and HTML say how many passed, failed and were absent."""
    exams = [ended_exam(Status.PASS), ended_exam(Status.PASS), ended_exam(Status.FAIL)]
    message = mail_of(*exams)
    assert message["Subject"] == "Exams until 2026-11-20 12:05 UTC: 2 pass, 1 fail, 0 absent"
    counts = [line.strip() for line in part(message, "plain").splitlines()[2:6]]
    assert counts == ["2 pass", "1 fail", "0 absent", "3 in all"]
    assert "<strong>2</strong> pass" in part(message, "html")


def test_a_digest_has_a_row_for_each_exam() -> None:
    """Status, candidate, title, start, end and pk; a dash where there is no name."""
    exams = [ended_exam(Status.PASS, "Ada", "Algebra"), ended_exam(Status.ABSENT, None, None)]
    assert table_of(exams).rows == [
        ["Exam", "Candidate", "Title", "Started", "Ended", "Status"],
        [exams[0].pk, "Ada", "Algebra", "2026-11-20 12:00:00", "2026-11-20 12:02:00", "pass"],
        [exams[1].pk, "–", "–", "2026-11-20 12:00:00", "2026-11-20 12:02:00", "absent"],
    ]


def test_the_text_part_tells_the_same() -> None:
    """Whoever reads no HTML gets every field of every exam."""
    exam = ended_exam(Status.FAIL, "Ada", "Algebra")
    lines = part(mail_of(exam), "plain").splitlines()
    assert lines[-5:] == [
        f"FAIL  {exam.pk}",
        "    candidate  Ada",
        "    title      Algebra",
        "    started    2026-11-20 12:00:00",
        "    ended      2026-11-20 12:02:00",
    ]


def test_an_empty_digest_says_that_nothing_happened() -> None:
    """Silence would look like a broken mail; both parts and the subject say it."""
    message = mail_of()
    assert message["Subject"] == "Exams until 2026-11-20 12:05 UTC: no exam ended"
    assert "Nothing happened" in part(message, "plain")
    assert "Nothing happened" in part(message, "html")
    assert Table(part(message, "html")).rows == []


@pytest.mark.parametrize("name", MARKUP)
def test_markup_in_names_is_shown_and_not_obeyed(name: str) -> None:
    """A name is text in the HTML, whatever it looks like."""
    plain, hostile = table_of([ended_exam()]), table_of([ended_exam(candidate=name, title=name)])
    assert hostile.rows[1][1:3] == [name, name]
    assert hostile.tags == plain.tags


@pytest.mark.parametrize("name", SCRIPTS)
def test_names_of_any_script_arrive(name: str) -> None:
    """Both parts carry every letter through the mail's encoding."""
    message = mail_of(ended_exam(candidate=name))
    assert f"    candidate  {name}\n" in part(message, "plain").replace("\r\n", "\n")
    assert Table(part(message, "html")).rows[1][1] == name


@pytest.mark.parametrize("name", LINES)
def test_no_name_can_add_a_header_or_a_part(name: str) -> None:
    """Line breaks, a lone dot and the mail's own boundary in a name leave its headers and two parts as they are."""
    honest, hostile = received(mail_of(ended_exam())), received(mail_of(ended_exam(candidate=name, title=name)))
    assert hostile.items() == honest.items()
    assert [each.get_content_type() for each in hostile.iter_parts()] == ["text/plain", "text/html"]
    assert name.splitlines()[-1] in Table(part(hostile, "html")).rows[1][1]


def test_no_folding_can_turn_a_name_into_the_end_of_a_part() -> None:
    """Long lines are folded: the mail's boundary in a name may come to stand at the beginning of a line."""
    names = [f"{'x' * filler}{END}" for filler in range(80)]
    hostile = received(mail_of(*(ended_exam(candidate=name) for name in names)))
    assert [row[1] for row in Table(part(hostile, "html")).rows[1:]] == names
    assert [line.split()[-1] for line in part(hostile, "plain").splitlines() if "candidate" in line] == names


def test_a_digest_is_the_same_bytes_each_time() -> None:
    """Sent again after a crash, by whichever worker, it is recognised as the same mail."""
    exams = [ended_exam(candidate=name) for name in SCRIPTS]
    first, second = mail_of(*exams), mail_of(*exams)
    assert first.as_bytes() == second.as_bytes()
    assert first["Message-ID"] == "<digest.20261120T120500.000Z.invigil@example.org>"
    assert first["Date"] == "Fri, 20 Nov 2026 12:05:00 +0000"


def test_each_window_part_and_namespace_has_its_own_message_id() -> None:
    """Mail readers drop a second mail with a known Message-ID."""
    windows = [WINDOW, f"{WINDOW}.2", "20261120T121000.000Z"]
    ids = {compose(window, [], SENDER, RECIPIENTS, space)["Message-ID"] for window in windows for space in ("a", "b")}
    assert len(ids) == 6


def test_a_digest_is_addressed_to_all_and_asks_for_no_answer() -> None:
    """Everybody sees who else got it; RFC 3834 keeps absence notices away."""
    message = received(mail_of())
    assert message["From"] == "invigil@example.org"
    assert message["To"] == "dean@example.org, office@example.org"
    assert message["Auto-Submitted"] == "auto-generated"


def test_no_line_is_longer_than_smtp_allows() -> None:
    """RFC 5321: 998 bytes and a line break; names without a space are folded by the encoding."""
    exams = [ended_exam(candidate="x" * 5000, title="山" * 5000)]
    assert max(map(len, mail_of(*exams).as_bytes(policy=SMTP).split(b"\r\n"))) <= 998
