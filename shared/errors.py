"""Every error Invigil raises on purpose.

    InvigilError
    ├── SettingsError          a bad or missing setting; stops the boot, naming the variable
    ├── DeclarationError       a task and its body do not fit; stops a worker's boot
    ├── InvalidInput           a caller's value that cannot be used, field by field
    ├── ExamNotFound           no exam has this pk
    ├── ExamConflict           the exam has ended otherwise, or its time is over
    ├── NotConnected           this process has not been told where tasks are sent
    ├── TaskNotFound           no task has this id, or what there was is forgotten
    ├── TaskIdTaken            another task has the id that this one was given
    ├── TaskConflict           the task, as it stands, does not admit what was asked
    ├── TaskFailed             what a task has raised, told to who asks for its result
    ├── TaskRevoked            a task has no result: it was cancelled, terminated, or had expired
    ├── TaskIgnored            a task has no result: its body raised Ignore
    ├── Verdict                how the body of a task ends without a result
    │   ├── Ignore             IGNORED
    │   ├── Reject             FAILURE at once, and a dead letter
    │   ├── MaxRetriesExceeded  FAILURE after the last retry that the body asked for
    │   ├── SoftTimeLimitExceeded  raised in the body, which may clean up
    │   ├── TimeLimitExceeded  the process that ran it was killed
    │   └── WorkerLost         the process that ran it died by itself
    ├── PayloadMissing         the large arguments or the large result of a task are gone
    ├── Unavailable            try again later
    │   ├── StoreUnavailable   the record store cannot be read or written now
    │   │   └── StoreDamaged   a record in it cannot be understood
    │   └── BrokerUnavailable  Redis cannot be used now
    │       └── BrokerRefuses  it answers, and does not do what was asked: its memory is full
    ├── CredentialsError
    │   ├── NotAuthenticated   no key, or not a valid one
    │   └── NotAuthorised      a valid key without the scope
    └── MailError              the mail server failed
        └── MailRefused        it works, and would not take this mail
            └── RecipientRefused   nor any other for this recipient

Driver errors (OSError, redis.RedisError, smtplib.SMTPException) are translated where they occur.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.exams.model import Exam


class InvigilError(Exception):
    """The root."""


class SettingsError(InvigilError):
    """Says which variable, what was wrong and what is allowed."""


class DeclarationError(InvigilError):
    """A task of the catalog and its body do not fit."""


ERRORS_NAMED = 20  # an answer must not grow with the request


@dataclass(frozen=True, slots=True)
class FieldError:
    """One bad field: its name and a sentence saying what is allowed."""

    field: str
    message: str


class InvalidInput(InvigilError):
    """One or more fields that cannot be used; the first twenty are named."""

    def __init__(self, *errors: FieldError) -> None:
        errors = errors[:ERRORS_NAMED]
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = errors


class ExamNotFound(InvigilError):
    """No exam has this pk."""

    def __init__(self, why: str = "no exam has this pk") -> None:
        super().__init__(why)


class ExamConflict(InvigilError):
    """The exam, as it stands, does not admit what was asked; carries it."""

    def __init__(self, exam: "Exam", why: str) -> None:
        super().__init__(why)
        self.exam = exam


class NotConnected(InvigilError):
    """This process has not been told where tasks are sent."""


class TaskNotFound(InvigilError):
    """No task has this id, or none of the kind asked for; how a task ended is forgotten after some time."""

    def __init__(self, why: str = "no task has this id") -> None:
        super().__init__(why)


class TaskIdTaken(InvigilError):
    """Another task has the id, in this state."""

    def __init__(self, task_id: str, state: str) -> None:
        super().__init__(f"there is a task {task_id} already: {state}")
        self.state = state


class TaskConflict(InvigilError):
    """The task, as it stands, does not admit what was asked."""


class TaskFailed(InvigilError):
    """What the body has raised: its class as text, its message and its traceback. Nothing of it is unpickled."""

    def __init__(self, type_: str, message: str, traceback: str | None = None) -> None:
        super().__init__(f"{type_}: {message}")
        self.type = type_
        self.message = message
        self.traceback = traceback


class TaskRevoked(InvigilError):
    """The task has no result; says why."""


class TaskIgnored(InvigilError):
    """The task has no result, as its body wished."""


class Verdict(InvigilError):
    """How a body ends without a result. Bodies may raise these; the engine raises the last three."""


class Ignore(Verdict):
    """This run has nothing to tell: the task ends as IGNORED."""


class Reject(Verdict):
    """This task cannot be done: it is not tried again, and its message is kept among the dead letters."""


class MaxRetriesExceeded(Verdict):
    """The body has asked for one retry more than it may."""


class SoftTimeLimitExceeded(Verdict):
    """The body has run for its soft time limit. It may catch this and clean up until the hard one."""


class TimeLimitExceeded(Verdict):
    """The body has run for its hard time limit, and has been killed."""


class WorkerLost(Verdict):
    """The process that ran the body died: a crash in C, too much memory, or somebody killed it."""


class PayloadMissing(InvigilError):
    """Arguments or a result too large for Redis, and not in the store any more: their task is over or forgotten."""


class Unavailable(InvigilError):
    """What is needed is out of reach; the same call may succeed later."""


class StoreUnavailable(Unavailable):
    """The record store cannot be read or written now."""


class StoreDamaged(StoreUnavailable):
    """A record cannot be understood: somebody or something else has written there. Names the file."""


class BrokerUnavailable(Unavailable):
    """Redis cannot be used now."""


class BrokerRefuses(BrokerUnavailable):
    """Redis answers, and does not do what was asked: usually its memory is full."""


class CredentialsError(InvigilError):
    """Why a caller was turned away."""


class NotAuthenticated(CredentialsError):
    """No key was sent, or the one sent is unknown, expired or revoked."""


class NotAuthorised(CredentialsError):
    """The key is valid and lacks the scope that this call needs."""


class MailError(InvigilError):
    """The mail server failed, or somebody was not served; who was served is noted."""


class MailRefused(MailError):
    """The server works and would not take this mail."""


class RecipientRefused(MailRefused):
    """The server works and would not take mail for this recipient."""
