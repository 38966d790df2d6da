"""Who may import whom, read from the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_IN_SHARED = {"falcon", "gunicorn", "apscheduler", "smtplib", "uvicorn", "uvicorn_worker", "uvloop"}
PROCESSES = {"api", "worker", "scheduler"}


def imported_by(path: Path) -> Iterator[str]:
    """Every package that a source file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield str(node.module).partition(".")[0]


def imports_of(package: str) -> dict[str, set[str]]:
    """The imports of each of its files."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    return {str(path.relative_to(ROOT)): set(imported_by(path)) for path in files}


def offenders(package: str, forbidden: set[str]) -> dict[str, set[str]]:
    return {path: found & forbidden for path, found in imports_of(package).items() if found & forbidden}


def test_shared_knows_no_server_no_scheduler_and_no_mail() -> None:
    """What two processes need must not drag in what only one of them has."""
    assert offenders("shared", NOT_IN_SHARED | PROCESSES) == {}


@pytest.mark.parametrize("package", sorted(PROCESSES))
def test_processes_never_import_each_other(package: str) -> None:
    """API, worker and scheduler meet in Redis and in the store only."""
    assert offenders(package, PROCESSES - {package}) == {}


def test_the_search_for_imports_finds_them() -> None:
    """The checks above would see an offender: the API does import Falcon."""
    assert "falcon" in imports_of("api")["api/app.py"]
    assert "shared" in imports_of("api")["api/gunicorn.conf.py"]
