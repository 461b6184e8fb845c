"""No-op tasks a second of one worker: python3 throughput.py [TASKS] [ARGUMENT_BYTES]"""

import json
import os
import sys
import time

from harness import WorkerProcess


def rate(kind, outstanding, tasks, size):
    worker = WorkerProcess(kind)
    task = {
        "task": "toys.noop",
        "uuid": "79688366-1b15-476a-9252-4be22647d52c",
        "time_pub": 1795314018.3007326,
        "args": ["x" * size],
    }
    line = json.dumps(task).encode() + b"\n"

    def run(count):
        worker.write(line * outstanding)
        sent, done = outstanding, 0
        while done < count:
            came = os.read(worker.events, 65536).count(b"\n")
            done += came
            more = min(came, count - sent)
            worker.write(line * more)
            sent += more

    run(1000)  # imports, caches
    cpu = os.times().user + os.times().system
    started = time.perf_counter()
    run(tasks)
    took = time.perf_counter() - started
    cpu = os.times().user + os.times().system - cpu
    worker.stop()
    worker.event("shutdown")
    assert worker.wait() == 0, worker.err
    worker.end()
    return tasks / took, cpu / tasks * 1e6


def main():
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 1024
    for kind in ("standalone", "dispatcherd"):
        for outstanding in (1, 2):
            speed, cpu = rate(kind, outstanding, tasks, size)
            print("%-11s  %d outstanding  %6.0f tasks/s  (parent %.0f µs CPU a task)" % (kind, outstanding, speed, cpu))


if __name__ == "__main__":
    main()
