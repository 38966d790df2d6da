"""Texts that people give: any script, no control characters."""

from shared.one_line import breaks_a_line

TEXT_LIMIT = 200  # characters of a candidate or a title


def text_error(text: str, limit: int) -> str | None:
    """What is wrong with a one-line text of 1 to `limit` characters, or None."""
    if not 1 <= len(text) <= limit:
        return f"must have 1 to {limit} characters"
    if not text.isprintable() and any(map(breaks_a_line, text)):
        return "must be one line without control characters"
    return None
