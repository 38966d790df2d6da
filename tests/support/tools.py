"""Programs that tests need and may not find."""

import os
import shutil
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skips the test with a reason; fails it where CI promises to have installed everything."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing")


def program(name: str) -> str:
    """The path of a program on PATH."""
    return shutil.which(name) or missing(name)
