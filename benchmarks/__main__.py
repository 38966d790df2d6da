"""`python -m benchmarks [store] [api] [lists] [long_polls] [slots] [tasks] [engine] [gevent] [autoscale]`: all of them
where none is named; `engine` is itself several, which may be named one by one. docs/operations.md has the figures.
"""

import sys

from benchmarks import api, autoscale, gevent, lists, long_polls, slots, store, tasks
from benchmarks.engine import cancelling, deadlines, idle, memory, pick_up, recovery, sending, throughput, together

ENGINE = {
    "deadlines": deadlines.main,
    "together": together.main,
    "throughput": throughput.main,
    "sending": sending.main,
    "pick_up": pick_up.main,
    "cancelling": cancelling.main,
    "memory": memory.main,
    "recovery": recovery.main,
    "idle": idle.main,
}
ALL = {
    "store": store.main,
    "api": api.main,
    "lists": lists.main,
    "long_polls": long_polls.main,
    "slots": slots.main,
    "tasks": tasks.main,
    **ENGINE,
    "gevent": gevent.main,
    "autoscale": autoscale.main,
}

if __name__ == "__main__":
    chosen = [part for name in sys.argv[1:] or ALL for part in (ENGINE if name == "engine" else [name])]
    if unknown := [name for name in chosen if name not in ALL]:
        sys.exit(f"there is no benchmark {unknown[0]!r}; there are engine, {', '.join(ALL)}")
    for name in chosen:
        ALL[name]()
