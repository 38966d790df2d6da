"""A worker with slots: `python -m tests.support.slot_worker '["spin"]' '["sleep", 2]'` runs these jobs side by side,
and prints what they ask, and how each has ended.
"""

import sys
import threading

from worker.slots import Slots


def main() -> None:
    slots = Slots("tests.support.slot_jobs:make")
    slots.start()
    threads = [threading.Thread(target=_run, args=(slots, job.encode())) for job in sys.argv[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    slots.close()


def _run(slots: Slots, job: bytes) -> None:
    reply = slots.run(job, time_limit_s=None, answer=_tell, on_start=lambda _: None)
    _tell(b"done " + reply)


def _tell(question: bytes) -> bytes:
    sys.stdout.write(question.decode() + "\n")
    sys.stdout.flush()
    return question


if __name__ == "__main__":
    main()
