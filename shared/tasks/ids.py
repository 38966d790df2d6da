"""The ids of tasks: what they may be, and which of them callers may give."""

import re

TASK_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~:-]{1,100}")  # of a path, `.` and `..` are taken away
TASK_ID_IS = "1 to 100 of the characters A-Z a-z 0-9 . _ ~ : -, and neither . nor .."

_OF_A_DEADLINE = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[0-9]+")


def is_task_id(value: object) -> bool:
    return isinstance(value, str) and TASK_ID.fullmatch(value) is not None


def why_not_given(value: object) -> str | None:
    """Why a caller may not give a task this id; None where it may."""
    if not is_task_id(value):
        return f"must be {TASK_ID_IS}"
    if _OF_A_DEADLINE.fullmatch(str(value)):
        return "must not be a UUID, a dot and a number: such ids are for the deadlines of exams"
    return None
