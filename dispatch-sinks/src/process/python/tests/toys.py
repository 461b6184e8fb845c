"""What the tests' workers run."""

import json
import os
import signal
import subprocess
import sys
import time

if os.environ.get("DISPATCH_TEST_TOYS") == "dispatcherd":
    from dispatcherd.publish import task
    from dispatcherd.worker.exceptions import DispatcherCancel, DispatcherExit
    from dispatcherd.worker.task import TaskWorker as Base
else:
    from dispatch_worker import DispatcherCancel, DispatcherExit, task
    from dispatch_worker import Worker as Base

trail = []


def noop(*args, **kwargs):
    pass


def echo(*args, **kwargs):
    return {"args": args and list(args), "kwargs": kwargs}


def give(kind):
    return {
        "none": None,
        "int": 5,
        "text": "s",
        "list": [1, 2.5],
        "dict": {"a": None},
        "float": 1.5,
        "bool": True,
        "tuple": (1,),
        "bytes": b"x",
        "set": {1},
        "object": object(),
        "subclass": type("Text", (str,), {})("x"),
        "list of objects": [object()],
        "odd keys": {(1, 2): 3},
        "bytes inside": {"a": b"\xff"},
    }[kind]


def give_circle():
    circle = []
    circle.append(circle)
    return circle


def give_deep():
    deep = []
    for _ in range(100000):
        deep = [deep]
    return deep


def give_long_int():
    return [10**5000]


def big(size):
    return "x" * size


def boom(text="x"):
    raise ValueError(text)


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no")


def unprintable():
    raise Unprintable


def recurse():
    return recurse()


class Runnable:
    def run(self, *args):
        return ["ran", *args]


@task(bind=True)
def bound(binder):
    return [binder.uuid, binder.worker_id]


@task(bind=True)
def ask(binder, command, data=None):
    return binder.control(command, data)


@task(bind=True)
def ask_and_survive(binder, command):
    try:
        binder.control(command)
    except DispatcherCancel:
        return binder.control("again")


def note(text):
    trail.append(text)


def read_trail():
    return list(trail)


def leave(*result):
    raise DispatcherExit(*result)


def leave_process(code):
    sys.exit(code)


def kill_self(number):
    os.kill(os.getpid(), number)
    time.sleep(20)


def touch_and_sleep(path, seconds=20):
    """Says through the file that it runs."""
    open(path, "w").close()
    time.sleep(seconds)
    return "slept"


def spin(path, seconds=20):
    open(path, "w").close()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def swallow(path):
    try:
        touch_and_sleep(path)
    except DispatcherCancel:
        return "tidied up"


def tidy_slowly(path, tidying):
    try:
        touch_and_sleep(path)
    except DispatcherCancel:
        touch_and_sleep(tidying, 0.3)
        return "tidied up"


def own_sigterm(path):
    caught = []
    signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
    open(path, "w").close()
    end = time.monotonic() + 20
    while not caught and time.monotonic() < end:
        time.sleep(0.01)
    return "caught" if caught else "not caught"


def use_asyncio():
    import asyncio

    async def main():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        loop.remove_signal_handler(signal.SIGHUP)

    asyncio.run(main())


def handlers():
    return [signal.getsignal(number) is signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGINT)]


def open_descriptors():
    """What a process that this task starts would hold of the worker's pipes."""
    code = "import os; print([fd for fd in (3, 4) if os.path.exists('/proc/self/fd/%d' % fd)])"
    return subprocess.run([sys.executable, "-c", code], close_fds=False, stdout=subprocess.PIPE).stdout.decode().strip()


def environment(*names):
    return [os.environ.get(name) for name in names]


def parent():
    return os.getppid()


def say(out, err):
    print(out)
    print(err, file=sys.stderr)


def settings_seen():
    from dispatcherd.config import settings

    return settings.serialize()


class Hooked(Base):
    """Writes down every callback."""

    def __init__(self, *args, path=None, fail=(), **kwargs):
        super().__init__(*args, **kwargs)
        self.path, self.fail = path, fail

    def _log(self, name, value=None):
        with open(self.path, "a") as file:
            file.write(json.dumps([name, value]) + "\n")
        if name in self.fail:
            raise RuntimeError(name)

    def on_start(self):
        self._log("on_start")

    def on_shutdown(self):
        self._log("on_shutdown")

    def pre_task(self, message):
        self._log("pre_task", message["uuid"])

    def post_task(self, result):
        self._log("post_task", result)

    def on_idle(self):
        self._log("on_idle")


class OwnWay(Base):
    """Does the work in a way of its own."""

    def perform_work(self, message, **keys):
        return dict(super().perform_work(message, **keys), mine=True)
