"""`python -m benchmarks [store] [api] [lists]`: all of them where none is named. docs/operations.md has the figures."""

import sys

from benchmarks import api, lists, store

ALL = {"store": store.main, "api": api.main, "lists": lists.main}

if __name__ == "__main__":
    for name in sys.argv[1:] or ALL:
        if name not in ALL:
            sys.exit(f"there is no benchmark {name!r}; there are {', '.join(ALL)}")
        ALL[name]()
