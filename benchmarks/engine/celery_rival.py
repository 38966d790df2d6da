"""The same tasks for Celery, run by the Python that has it: `python -m benchmarks.engine.celery_rival COUNT` sends."""

import os
import sys
import time

from celery import Celery  # type: ignore[import-not-found]

app = Celery("rival", broker=os.environ["CELERY_BROKER"], backend=os.environ["CELERY_BACKEND"] or None)


@app.task(name="noop")  # type: ignore[untyped-decorator]
def noop() -> None:
    pass


@app.task(name="tell")  # type: ignore[untyped-decorator]
def tell(name: str) -> None:
    os.write(1, f"{name} {time.time_ns()}\n".encode())


if __name__ == "__main__":
    tell.delay("first")
    for _ in range(int(sys.argv[1])):
        noop.delay()
    tell.delay("last")
