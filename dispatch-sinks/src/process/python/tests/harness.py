"""Drives workers and zygotes over real pipes, as the process sink does."""

import array
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
SHIMS = os.path.dirname(HERE)
ROOT = os.path.abspath(os.path.join(SHIMS, "..", "..", "..", ".."))
LIMIT = 20  # seconds that anything may take before it counts as hung

# So that no pipe of ours gets a number that a child's pipes take.
for _ in range(2):
    os.open(os.devnull, os.O_RDWR)


def python_of(kind):
    """The interpreter for that shim; None where dispatcherd is not to be had."""
    if kind == "standalone":
        return os.environ.get("DISPATCH_TEST_STANDALONE_PYTHON", sys.executable)
    for python in (os.environ.get("DISPATCH_TEST_PYTHON"), os.path.join(ROOT, "target", "python", "bin", "python")):
        if python and os.path.exists(python):
            return python
    return None


def need_python(kind):
    python = python_of(kind)
    if python is None:
        if os.environ.get("CI") == "true":
            raise AssertionError("no Python with dispatcherd: run scripts/python-env")
        sys.stderr.write("skipped: %s shim: no Python with dispatcherd, run scripts/python-env\n" % kind)
        raise unittest.SkipTest("no Python with dispatcherd")
    return python


SCRIPTS = {"standalone": "dispatch_worker.py", "dispatcherd": "dispatch_dispatcherd.py"}


def environment(extra=None):
    env = dict(os.environ, PYTHONPATH=HERE, PYTHONDONTWRITEBYTECODE="1")
    for name in [name for name in env if name.startswith("DISPATCH_TASK") or name.startswith("DISPATCH_WORKER")]:
        del env[name]
    env.update(extra or {})
    return env


def settings(**worker):
    return {"version": 2, "brokers": {}, "worker": worker}


class Pipes:
    """The parent's side of one worker's descriptors."""

    def __init__(self):
        self.worker_tasks, self.tasks = os.pipe()
        self.events, self.worker_events = os.pipe()
        self.buffer = b""
        self.seen = []

    def hand_over(self):
        os.close(self.worker_tasks)
        os.close(self.worker_events)

    def write(self, data):
        while data:
            data = data[os.write(self.tasks, data) :]

    def frame(self, value):
        self.write(json.dumps(value).encode() + b"\n")

    def task(self, name, *args, uuid="u", **keys):
        self.frame(dict({"task": "toys." + name, "uuid": uuid, "args": list(args)}, **keys))

    def stop(self):
        self.frame("stop")

    def next_line(self, limit=LIMIT):
        """The next frame's text, or None at the end."""
        end = time.monotonic() + limit
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.events], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise AssertionError("no event within %s s; so far %r" % (limit, self.seen[-5:]))
            data = os.read(self.events, 1 << 20)
            if not data:
                return None
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line

    def event(self, kind=None, limit=LIMIT):
        line = self.next_line(limit)
        if line is None:
            raise AssertionError("the worker has gone, waiting for %s; so far %r" % (kind, self.seen[-5:]))
        event = json.loads(line)
        self.seen.append(event)
        if kind is not None and event.get("event") != kind:
            raise AssertionError("expected %s, got %r" % (kind, event))
        return event

    def quiet(self, seconds=0.05):
        """True when no event is there; for what must not happen, after something that would have followed it."""
        return not self.buffer and not select.select([self.events], [], [], seconds)[0]

    def close(self):
        for fd in (self.tasks, self.events):
            if fd is not None:
                os.close(fd)
        self.tasks = self.events = None

    def close_tasks(self):
        os.close(self.tasks)
        self.tasks = None


class WorkerProcess(Pipes):
    """A worker, started by hand."""

    def __init__(self, kind, env=None, worker=None, worker_id=0, ready=True, command=None):
        super().__init__()
        extra = {"DISPATCH_WORKER_ID": str(worker_id), "DISPATCH_TEST_TOYS": kind or ""}
        if worker is not None:
            extra["DISPATCH_WORKER_SETTINGS"] = json.dumps(settings(**worker))
        extra.update(env or {})
        tasks, events = self.worker_tasks, self.worker_events
        self.out_file, self.err_file = tempfile.TemporaryFile(), tempfile.TemporaryFile()

        def place():
            os.dup2(tasks, 3)
            os.dup2(events, 4)

        self.process = subprocess.Popen(
            command or [need_python(kind), os.path.join(SHIMS, SCRIPTS[kind])],
            env=environment(extra),
            close_fds=False,
            preexec_fn=place,
            stdin=subprocess.DEVNULL,
            # Files: nobody reads a pipe of these while the test waits for an event.
            stdout=self.out_file,
            stderr=self.err_file,
        )
        self.hand_over()
        if ready:
            self.ready = self.event("ready")

    def signal(self, number):
        os.kill(self.process.pid, number)

    def cancel(self, uuid):
        self.frame(["cancel", uuid])
        self.signal(signal.SIGUSR1)

    def revoke(self, uuid):
        self.frame(["revoke", uuid])
        self.signal(signal.SIGUSR1)

    def until(self, kind, ring, *args):
        """Rings until the event comes: a signal that arrives between Python's last look and the system call of a sleep waits it out."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            ring(*args)
            if not self.quiet(0.5):
                break
        return self.event(kind, limit=1)

    def plain(self):
        self.signal(signal.SIGUSR1)

    def wait(self, limit=LIMIT):
        """The exit status; `out` and `err` are then known."""
        code = self.process.wait(timeout=limit)
        for file in (self.out_file, self.err_file):
            file.seek(0)
        self.out, self.err = self.out_file.read(), self.err_file.read()
        return code

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.out_file.close()
        self.err_file.close()
        self.close()


class ZygoteProcess:
    """A zygote, and the workers it made."""

    def __init__(self, python=sys.executable, preload="", env=None):
        ours, theirs = socket.socketpair()
        self.control, self.buffer = ours, b""
        extra = {"DISPATCH_PRELOAD": preload}
        extra.update(env or {})

        def place():
            os.dup2(theirs.fileno(), 3)

        self.process = subprocess.Popen(
            [python, os.path.join(SHIMS, "dispatch_zygote.py")],
            env=environment(extra),
            close_fds=False,
            preexec_fn=place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        theirs.close()

    def answer(self, key=None, limit=LIMIT):
        self.control.settimeout(limit)
        while b"\n" not in self.buffer:
            data = self.control.recv(65536)
            if not data:
                raise AssertionError("the zygote has gone: " + self.process.communicate()[1].decode())
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        answer = json.loads(line)
        if key is not None and key not in answer:
            raise AssertionError("expected %s, got %r" % (key, answer))
        return answer if key is None else answer[key]

    def request(self, value, fds=()):
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.control.sendmsg([text + b"\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])

    def spawn(self, worker_id, kind="standalone", env=None, output=(), announce=None):
        pipes = Pipes()
        fds = [pipes.worker_tasks, pipes.worker_events, *output]
        spawn = {"worker_id": worker_id, "shim": kind, "env": env or {}, "fds": announce or len(fds)}
        self.request({"spawn": spawn}, fds)
        pipes.hand_over()
        return pipes

    def end(self):
        self.control.close()
        try:
            self.process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
