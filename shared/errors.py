"""Every error Invigil raises on purpose.

    InvigilError
    ├── SettingsError          a bad or missing setting; stops the boot, naming the variable
    ├── InvalidInput           a caller's value that cannot be used, field by field
    ├── ExamNotFound           no exam has this pk
    ├── ExamConflict           the exam has ended otherwise, or its time is over
    ├── TaskNotFound           no task has this id, or what there was is forgotten
    ├── TaskIdTaken            another task has the id that this one was given
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


@dataclass(frozen=True, slots=True)
class FieldError:
    """One bad field: its name and a sentence saying what is allowed."""

    field: str
    message: str


class InvalidInput(InvigilError):
    """One or more fields that cannot be used."""

    def __init__(self, *errors: FieldError) -> None:
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


class TaskNotFound(InvigilError):
    """No task has this id, or none of the kind asked for; how a task ended is forgotten after some time."""

    def __init__(self, why: str = "no task has this id") -> None:
        super().__init__(why)


class TaskIdTaken(InvigilError):
    """Another task has the id, in this state."""

    def __init__(self, task_id: str, state: str) -> None:
        super().__init__(f"there is a task {task_id} already: {state}")
        self.state = state


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
