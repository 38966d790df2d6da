"""Who may import whom, read from the sources."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_IN_SHARED = {"falcon", "gunicorn", "apscheduler", "smtplib", "uvicorn", "uvicorn_worker", "uvloop"}
PROCESSES = {"api", "worker", "scheduler"}

# Of each part of ours, all the others of ours that its files may import.
MAY_IMPORT = {
    "shared/broker": {"shared.broker", "shared.clock", "shared.errors", "shared.redis_keys"},
    "shared/exams": {"shared.exams", "shared.clock", "shared.errors", "shared.idempotency"},
    "shared/tasks": {
        "shared.tasks",
        "shared.broker",
        "shared.clock",
        "shared.errors",
        "shared.exams",
        "shared.idempotency",
        "shared.redis_keys",
    },
    "shared/errors.py": {"shared.exams.model"},
    "shared/idempotency.py": {"shared.clock", "shared.errors", "shared.exams.disk"},
    "shared/redis_keys.py": set(),
    "worker/supervisor.py": {
        "shared.broker.engine",
        "shared.errors",
        "shared.pulse",
        "shared.services",
        "shared.settings",
        "worker.process_tree",
        "worker.scaling",
    },
    "worker/scaling.py": set(),
    # What children are forked from has opened nothing, and is told by name what to run.
    "worker/slot_server.py": {"worker.process_tree", "worker.slot_child"},
    "worker/slot_child.py": {"worker.process_tree", "worker.slot_channel", "worker.soft_limit"},
    "worker/slots.py": {"shared.errors", "worker.slot_channel", "worker.slot_server"},
    "worker/process_tree.py": set(),
}


def imported_by(path: Path) -> Iterator[str]:
    """Every module that a source file imports, wherever in it, and every name it takes from one, as if that were a
    module too.
    """
    yield from _imported(path, ast.walk(ast.parse(path.read_text())))


def needed_by(path: Path) -> Iterator[str]:
    """As `imported_by`, of what its own import imports: not for type checkers alone, nor in a function."""
    yield from _imported(path, ast.parse(path.read_text()).body)


def _imported(path: Path, nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(part: str) -> list[Path]:
    files = [ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py"))
    assert files
    return files


def imports_of(part: str) -> dict[str, set[str]]:
    """The packages that each of its files imports."""
    return {
        str(path.relative_to(ROOT)): {name.partition(".")[0] for name in imported_by(path)} for path in files_of(part)
    }


def offenders(part: str, forbidden: set[str]) -> dict[str, set[str]]:
    return {path: found & forbidden for path, found in imports_of(part).items() if found & forbidden}


def our_modules() -> dict[str, Path]:
    """Ours, by their names."""
    found = {}
    for package in ("shared", *sorted(PROCESSES)):
        for path in files_of(package):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def strangers(part: str, allowed: set[str]) -> dict[str, set[str]]:
    """What its files import of ours that is neither allowed nor within a package that is."""
    ours = our_modules().keys()
    found = {}
    for path in files_of(part):
        modules = {name for name in imported_by(path) if name in ours and name not in ("shared", "worker")}
        if strange := {name for name in modules if not any(f"{name}.".startswith(f"{one}.") for one in allowed)}:
            found[str(path.relative_to(ROOT))] = strange
    return found


def test_shared_knows_no_server_no_scheduler_and_no_mail() -> None:
    """What two processes need must not drag in what only one of them has."""
    assert offenders("shared", NOT_IN_SHARED | PROCESSES) == {}


@pytest.mark.parametrize("package", sorted(PROCESSES))
def test_processes_never_import_each_other(package: str) -> None:
    """API, worker and scheduler meet in Redis and in the store only."""
    assert offenders(package, PROCESSES - {package}) == {}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_knows_only_what_it_is_built_on(part: str) -> None:
    """The engine knows no tasks and no exams, the supervisor no actors, the fork server nothing that opens anything."""
    package = set() if part.endswith(".py") else {part.replace("/", ".")}
    assert strangers(part, MAY_IMPORT[part] | package) == {}


def test_the_bodies_of_tasks_are_reached_in_one_place() -> None:
    """So that whoever sends a task cannot depend on its body."""
    importers = {name for name, path in our_modules().items() if "worker.actors" in imported_by(path)}
    assert importers == {"worker.bodies"}


def test_what_children_are_forked_from_has_imported_the_bodies() -> None:
    """They share that: a child takes 6 MB instead of 13, and is ready in 15 ms instead of 60."""
    program = "import sys, worker.child; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name for name in our_modules() if name.startswith("worker.actors.")} <= set(imported.stdout.split())


def test_gevent_is_imported_only_where_it_runs_already() -> None:
    """A process of threads does without, also where it is installed."""
    assert [name for name, path in our_modules().items() if {"gevent", "greenlet"} & set(needed_by(path))] == []


def test_nothing_is_imported_in_a_circle() -> None:
    """Types apart: a reader can begin at the bottom."""
    modules = our_modules()
    graph = {name: {each for each in needed_by(path) if each in modules} - {name} for name, path in modules.items()}
    assert [name for name in graph if name in reached(name, graph)] == []


def reached(name: str, graph: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = [name]
    while ahead:
        for each in graph[ahead.pop()] - found:
            found.add(each)
            ahead.append(each)
    return found


def test_the_search_for_imports_finds_them() -> None:
    """The checks above would see an offender: the API imports Falcon, the supervisor its policy, a circle closes."""
    assert "falcon" in imports_of("api")["api/app.py"]
    assert "shared" in imports_of("api")["api/gunicorn.conf.py"]
    assert "worker.scaling" in strangers("worker/supervisor.py", set())["worker/supervisor.py"]
    assert reached("a", {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {"a", "b", "c"}
