"""Texts that people give: any script, no control characters."""

import unicodedata

_REFUSED = {"Cc", "Cs", "Zl", "Zp"}  # controls, lone surrogates, line and paragraph separators


def text_error(text: str, limit: int) -> str | None:
    """What is wrong with a one-line text of 1 to `limit` characters, or None."""
    if not 1 <= len(text) <= limit:
        return f"must have 1 to {limit} characters"
    if any(unicodedata.category(character) in _REFUSED for character in text):
        return "must be one line without control characters"
    return None
