"""Which characters a text must not have that is to be one line of a terminal, a log or a mail's header."""

import unicodedata

_BREAKING = {"Cc", "Cs", "Zl", "Zp"}  # controls, lone surrogates, line and paragraph separators


def breaks_a_line(character: str) -> bool:
    """Whether it ends a line, or steers what shows it."""
    return unicodedata.category(character) in _BREAKING
