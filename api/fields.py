"""Types of fields that several calls share: what validation refuses is what the API's document says.

A description completes "must be".
"""

from datetime import datetime
from typing import Annotated

import msgspec

from shared.exams.pk import CANONICAL

TEXT_LIMIT = 200  # characters of a candidate or a title
# No controls, no line or paragraph separators. `$` alone would let a line feed pass at the end.
ONE_LINE = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*(?!\n)$"

Line = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=TEXT_LIMIT,
        pattern=ONE_LINE,
        description=f"one line of 1 to {TEXT_LIMIT} characters, none of them a control character",
    ),
]
InstantGiven = Annotated[
    datetime,
    msgspec.Meta(
        tz=True,
        description="an instant such as 2026-11-20T10:45:00Z (a + in an offset is written %2B)",
        examples=["2026-11-20T10:45:00Z"],
    ),
]

# In answers these are texts already, so that all instants look the same.
Instant = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
        examples=["2026-11-20T10:45:00.000Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
Pk = Annotated[
    str,
    msgspec.Meta(
        pattern=f"^{CANONICAL}$",
        description="a UUID of version 7, written in 36 characters, small letters",
        examples=["01a1f89a-97b6-7c9e-8bff-51e5c4aec644"],
        extra_json_schema={"format": "uuid"},
    ),
]
