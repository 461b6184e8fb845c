"""What the tests' workers do."""

import os
import signal
import subprocess
import sys
import time

if os.environ.get("DISPATCH_TEST_SHIM") == "dispatcherd":
    from dispatcherd.worker.exceptions import DispatcherCancel, DispatcherExit
    from dispatcherd.worker.task import TaskWorker as Base
else:
    from dispatch_worker import DispatcherCancel, DispatcherExit
    from dispatch_worker import Worker as Base


def noop(*args, **kwargs):
    pass


def echo(*args, **kwargs):
    return [list(args), kwargs]


def boom(text):
    raise ValueError(text)


def odd():
    return object()


def pid():
    return os.getpid()


def uuid(binder):
    return [binder.uuid, binder.worker_id]


def attempt(binder):
    return [binder.uuid, binder.attempt]


def ask(binder, command, data=None):
    return binder.control(command, data)


def environment(*names):
    return [os.environ.get(name) for name in names]


def touch(path):
    open(path, "w").close()


def hold(path, until):
    """Says through a file that it is at work, and works until another file is there."""
    touch(path)
    while not os.path.exists(until):
        time.sleep(0.005)
    return os.getpid()


def sleep(path, seconds=30):
    touch(path)
    time.sleep(seconds)
    return "slept"


def tidy(path):
    try:
        sleep(path)
    except DispatcherCancel:
        return "tidied up"


def ignore_cancel(path):
    while True:
        try:
            touch(path)
            time.sleep(30)
        except DispatcherCancel:
            pass


def ignore_all(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ignore_cancel(path)


def kill_self(number):
    os.kill(os.getpid(), number)
    time.sleep(30)


def exit_with(code):
    os._exit(code)


def leave():
    raise DispatcherExit("bye")


def say(text):
    print(text)
    print(text, file=sys.stderr)


def flood(lines):
    for _ in range(lines):
        print("x" * 100)
    return lines


def binary():
    os.write(1, bytes(range(256)) * 100)
    os.write(2, b"\xff\xfe no line end")
    return "written"


def garbage():
    os.write(4, b'not json\n\xff\xff\n[1]\n{"event": "dance"}\n{"event": "revoked", "uuid": "no such"}\n{"event": 5}\n\n')
    return "still here"


def leave_child(path):
    """A process that holds the worker's output open, and outlives it."""
    child = subprocess.Popen(["sleep", "30"])
    with open(path, "w") as file:
        file.write(str(child.pid))
    os._exit(7)


class Hooked(Base):
    def __init__(self, *args, path=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.path = path

    def log(self, word):
        with open(self.path, "a") as file:
            file.write(word + "\n")

    def on_start(self):
        self.log("on_start")

    def on_shutdown(self):
        self.log("on_shutdown")

    def pre_task(self, message):
        self.log("pre_task " + message["task"])

    def post_task(self, result):
        self.log("post_task")

    def on_idle(self):
        self.log("on_idle")


if os.environ.get("DISPATCH_TEST_BROKEN"):
    sys.exit("broken at import")
