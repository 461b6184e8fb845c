"""A worker process for dispatch, in one file and with the standard library alone.

The parent writes tasks to descriptor 3, the worker its events to descriptor 4, one JSON value a line; docs/workers.md has the
whole protocol. Environment:

DISPATCH_WORKER_ID         the number that every event carries (default 0)
DISPATCH_WORKER_SETTINGS   JSON; read here: worker.worker_cls, worker.worker_kwargs (default {})
DISPATCH_TASK_ALLOW        patterns (`*`, `?`, `[a-z]`) of task names, comma separated; unset or empty allows every importable one
DISPATCH_LAMBDA_TASKS      1 lets a task be the text of a lambda, which is evaluated (default: refused)

A program may say `from dispatch_worker import task, Worker, DispatcherExit` in its modules: inside a worker that is this file.
"""

import fnmatch
import json
import logging
import os
import re
import select
import signal
import sys
import time
from collections import deque
from importlib import import_module

try:
    # What the module signal wraps: several calls a task, and its conversions to enums cost more than the calls.
    from _signal import SIG_DFL
    from _signal import signal as set_handler
except ImportError:
    from signal import SIG_DFL
    from signal import signal as set_handler

logger = logging.getLogger("dispatch.worker")

TASKS_FD, EVENTS_FD = 3, 4
CANCELLED = "<cancel>"
# How much of a task's error goes to the parent, in characters.
MESSAGE_LIMIT, TRACEBACK_LIMIT = 8192, 32768

encode = json.JSONEncoder(separators=(",", ":")).encode
quote = json.encoder.encode_basestring_ascii
raw_decode = json.JSONDecoder().raw_decode


class DispatcherCancel(Exception):
    """Raised in a task at the current bytecode when the parent cancels it. A task may catch it to tidy up."""


class DispatcherExit(Exception):
    """Raised by a task to end its worker after it, in good order; `result` is the task's."""

    def __init__(self, result="<exit>"):
        super().__init__(result)
        self.result = result


class ParentGone(OSError):
    """The pipe to or from the parent has closed."""


# --- the pipe ---


class Link:
    """Both descriptors: frames in, frames out, and the doorbell.

    The doorbell is SIGUSR1. With a note before it in the pipe, it says: read the note (`["cancel", uuid]`, `["revoke", uuid]`),
    even while a task runs. Without one it cancels whatever runs. Python runs a handler between any two bytecodes, so one that
    raised between a read and the keeping of what was read would lose frames: while `busy`, the handler only takes note.
    """

    def __init__(self, tasks_fd=TASKS_FD, events_fd=EVENTS_FD, worker_id=0):
        self.tasks_fd, self.events_fd, self.worker_id = tasks_fd, events_fd, worker_id
        self.pid = os.getpid()
        # Processes that a task starts must not hold the pipe open.
        os.set_inheritable(tasks_fd, False)
        os.set_inheritable(events_fd, False)
        # A read then never waits, and with tasks waiting already there is one system call a task and no poll.
        os.set_blocking(tasks_fd, False)
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        os.set_blocking(self.wake_write, False)
        self.poll = select.poll()
        self.poll.register(tasks_fd, select.POLLIN)
        self.poll.register(self.wake_read, select.POLLIN)
        self.tasks = deque()  # frames that are tasks, or "stop", still as bytes
        self.notes = deque()  # frames that are arrays, decoded
        self.partial = []  # the pieces of a frame whose end has not come yet
        self.eof = False
        self.uuid = None  # of the task at work, callbacks included
        self.armed = False  # whether its code is being run: only then may the doorbell raise
        self.cancel_wanted = False  # to be raised as soon as it is armed
        self.cancel_raised = False  # once already: a note may be sent again, for a signal right before a sleep can be lost
        self.doorbells_due = 0  # notes already read whose doorbell has not rung yet
        self.busy = self.rung = False
        self.controls = 0
        self.answers = {}

    def next_task(self, timeout=None, stopping=None):
        """The next task or `"stop"`; None after `timeout` seconds or when `stopping()` is true; ParentGone at the end."""
        deadline = timeout and time.monotonic() + timeout
        while not self.tasks:
            if self.eof:
                raise ParentGone("the parent has closed the tasks' pipe")
            if stopping is not None and stopping():
                return None
            if not self._read():
                # Nothing is under way and nothing waits: a doorbell that rings from here on belongs to no note read before.
                self.doorbells_due = 0
                if not self._wait(deadline):
                    return None
        return self.tasks.popleft()

    def control(self, command, data=None):
        """Asks the parent something in the middle of a task, and waits for the answer."""
        self.controls += 1
        number = self.controls
        # An answer that came after its task was cancelled is of no use any more.
        self.answers.clear()
        event = {"worker": self.worker_id, "event": "control", "seq": number, "command": command}
        if data:
            event["control_data"] = data
        self.send(encode(event))
        while number not in self.answers:
            if self.eof:
                raise ParentGone("the parent has gone before it answered " + command)
            if not self._read():
                self._wait(None)
        return self.answers.pop(number)

    def send(self, text):
        """Writes one frame, whole: a doorbell waits until it is out."""
        self.busy = True
        try:
            self._write(text)
        finally:
            self.busy = False
        if self.rung:
            self._answer_doorbell()

    def doorbell(self, _signal=None, _frame=None):
        """The handler of SIGUSR1."""
        if os.getpid() != self.pid:
            return  # a process that a task forked: the pipe is not its own
        if self.busy:
            self.rung = True
        else:
            self._answer_doorbell()

    def cancel(self):
        """Ends the task at work. The shim for dispatcherd puts its own here."""
        raise DispatcherCancel

    def begin(self, uuid):
        """From here to `end` a cancel is meant for this task."""
        self.uuid, self.cancel_wanted, self.cancel_raised = name_of(uuid), False, False

    def end(self):
        self.uuid, self.armed, self.cancel_wanted = None, False, False

    def arm(self):
        """From here to `disarm` a cancel is raised."""
        self.armed = True
        if self.cancel_wanted:
            self._raise_cancel()

    def disarm(self):
        self.armed = False

    def _raise_cancel(self):
        self.cancel_wanted, self.cancel_raised = False, True
        self.cancel()

    def _wait(self, deadline):
        """True when there may be something to read; a signal counts."""
        try:
            # Each time, since asyncio.run in a task takes the wake-up descriptor away.
            signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        except ValueError:
            pass  # `control` in a thread of the task's own; signals are the main thread's business
        if self.tasks or self.eof:
            return True  # a doorbell read them in the meantime
        ready = self.poll.poll(None if deadline is None else max(0, deadline - time.monotonic()) * 1000)
        for fd, _ in ready:
            if fd == self.wake_read:
                try:
                    os.read(self.wake_read, 512)
                except BlockingIOError:
                    pass
        return bool(ready)

    def _read(self):
        """Reads what is there; true if anything was."""
        self.busy = True
        try:
            found = self._fill()
            if self.notes:
                self._obey()
        finally:
            self.busy = False
        if self.rung:
            self._answer_doorbell()
        return found

    def _answer_doorbell(self):
        wanted = False
        while True:
            self.rung = False
            self.busy = True
            try:
                while self._fill():
                    pass
                self._obey()
            finally:
                self.busy = False
            if self.doorbells_due:
                self.doorbells_due -= 1
                wanted = wanted or self.cancel_wanted
            else:
                wanted = True
            if not self.rung:  # again in the meantime
                break
        if wanted and self.armed:
            self._raise_cancel()
        elif wanted and self.uuid is not None:
            self.cancel_wanted = True

    def _fill(self):
        try:
            data = os.read(self.tasks_fd, 65536)
        except BlockingIOError:
            return False
        if not data:
            found, self.eof = not self.eof, True
            return found
        end = data.rfind(b"\n")
        if end < 0:
            self.partial.append(data)
            return True
        if self.partial:
            self.partial.append(data[:end])
            whole = b"".join(self.partial)
        else:
            whole = data[:end]
        self.partial = [data[end + 1 :]] if end + 1 < len(data) else []
        for line in whole.split(b"\n"):
            if line.startswith(b"["):
                try:
                    self.notes.append(decode(line))
                except (ValueError, RecursionError):
                    logger.warning("note from the parent is not JSON, skipped: %.200r", line)
            elif line and not line.isspace():
                self.tasks.append(line)
        return True

    def _obey(self):
        while self.notes:
            note = self.notes.popleft()
            kind = note[0] if note else None
            if kind == "control" and len(note) == 3:
                self.answers[note[1]] = note[2]
            elif kind in ("cancel", "revoke") and len(note) == 2:
                self.doorbells_due += 1
                if self.uuid is not None and self.uuid == note[1]:
                    if kind == "cancel" and not self.cancel_raised:
                        self.cancel_wanted = True
                else:
                    self._revoke(note[1])
            else:
                logger.warning("unknown note from the parent, skipped: %.200r", note)

    def _revoke(self, uuid):
        for line in self.tasks:
            try:
                waiting = decode(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(waiting, dict) and "uuid" in waiting and name_of(waiting["uuid"]) == uuid:
                self.tasks.remove(line)
                self._write(encode({"worker": self.worker_id, "event": "revoked", "uuid": uuid}))
                return

    def _write(self, text):
        rest = text.encode("ascii") + b"\n"
        while rest:
            try:
                # A pipe takes what fits; so does one that a signal interrupted.
                rest = rest[os.write(self.events_fd, rest) :]
            except BlockingIOError:
                writable = select.poll()
                writable.register(self.events_fd, select.POLLOUT)
                writable.poll()
            except BrokenPipeError as error:
                raise ParentGone("the parent has closed the events' pipe") from error


def name_of(uuid):
    """What the parent calls a task: its `uuid`, or the JSON of one that is no text."""
    try:
        return uuid if isinstance(uuid, str) else encode(uuid)
    except (ValueError, RecursionError):  # more digits than Python writes
        return "<unknown>"


def decode(line):
    """The value of a frame; one that Python's own limit on the digits of an int stops is read without that limit."""
    try:
        # json.loads does the same, but looks for the encoding and for blanks first: a third of its time.
        text = line.decode()
        value, end = raw_decode(text)
        if end == len(text):
            return value
    except ValueError:
        pass
    try:
        return json.loads(line)
    except ValueError:
        return _without_digit_limit(json.loads, line)


def _without_digit_limit(function, value):
    limit = getattr(sys, "get_int_max_str_digits", int)()
    if not limit:  # none, or a Python that has no such limit
        return function(value)
    sys.set_int_max_str_digits(0)
    try:
        return function(value)
    finally:
        sys.set_int_max_str_digits(limit)


def encode_event(event):
    """The text of an event. A result that JSON cannot hold becomes null: it must not end the worker."""
    try:
        # What most tasks end with, without the encoder's walk: half a microsecond for three.
        if event["event"] == "done" and event["result"] is None and len(event) == 6:
            started, finish = event["time_started"], event["time_finish"]
            if type(started) is float is type(finish) and 0 <= started <= finish < 1e12:
                values = event["worker"], quote(event["uuid"]), started, finish
                return '{"worker":%d,"event":"done","result":null,"uuid":%s,"time_started":%r,"time_finish":%r}' % values
    except (KeyError, TypeError):
        pass
    try:
        return encode(event)
    except (TypeError, ValueError, RecursionError):
        try:
            return _without_digit_limit(encode, event)
        except (TypeError, ValueError, RecursionError) as error:
            logger.warning("task %s returned what JSON cannot hold, dropped: %s", event.get("uuid"), error)
            return encode(dict(event, result=None))


def describe(error):
    """An exception for the parent."""
    import traceback

    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else kind.__module__ + "." + kind.__qualname__
    try:
        message = str(error)
    except Exception:  # a __str__ that fails must not hide the error itself
        message = "<no text: its __str__ raised>"
    try:
        trace = "".join(traceback.format_exception(kind, error, error.__traceback__))
    except Exception:
        trace = ""
    # The end of a traceback is where the error is.
    return {"class": name, "message": message[:MESSAGE_LIMIT], "traceback": trace[-TRACEBACK_LIMIT:]}


# --- what may run ---


class TaskRefused(Exception):
    """The task's name is not among those that this worker runs."""


class Gate:
    """Which task names may run, from the environment."""

    def __init__(self, environ=os.environ):
        patterns = [pattern.strip() for pattern in environ.get("DISPATCH_TASK_ALLOW", "").split(",")]
        patterns = [fnmatch.translate(pattern) for pattern in patterns if pattern]
        self.allowed = re.compile("|".join(patterns)) if patterns else None
        self.lambdas = environ.get("DISPATCH_LAMBDA_TASKS") == "1"
        self.open = self.allowed is None and self.lambdas

    def check(self, message):
        """TaskRefused for a message that holds a name, callbacks and errbacks included, which may not run."""
        if self.open:
            return
        name = message.get("task")
        if isinstance(name, str):
            if name.startswith("lambda"):
                if not self.lambdas:
                    raise TaskRefused("lambda tasks are off: set lambda_tasks = true to let publishers run any code")
            elif self.allowed is not None and not self.allowed.match(name):
                raise TaskRefused("task %r matches no pattern of task_allow" % name[:200])
        for key in ("callbacks", "errbacks"):
            followers = message.get(key)
            for follower in followers if isinstance(followers, list) else ():
                if isinstance(follower, dict):
                    self.check(follower)


registry = {}


def task(function=None, *, bind=False, name=None):
    """Registers a function, or a class with `run`, as a task; only needed for `bind` and for a name of its own."""

    def register(target):
        registry[name or target.__module__ + "." + target.__qualname__] = (target, bind)
        return target

    return register if function is None else register(function)


def resolve(name):
    """The callable of that name, and whether it wants the bound object first."""
    if name in registry:
        return registry[name]
    if not isinstance(name, str):
        raise RuntimeError("a task is named by a text, not by %.200r" % (name,))
    if name.startswith("lambda"):
        return eval(name), False  # the gate has let it through
    module_name, dot, attribute = name.rpartition(".")
    if not dot:
        raise RuntimeError("task %r is not of the form module.function" % name[:200])
    module = sys.modules.get(module_name) or import_module(module_name)
    if name in registry:  # the import registered it
        return registry[name]
    try:
        return getattr(module, attribute), False
    except AttributeError:
        raise ImportError("module %s has no %s" % (module_name, attribute)) from None


class Bound:
    """What a task with `bind` gets as its first argument."""

    def __init__(self, link, uuid, attempt=1):
        self.uuid, self.worker_id, self._link = uuid, link.worker_id, link
        self.attempt = attempt  # which attempt this is, from 1; `uuid` is the same in all

    def control(self, command, data=None):
        """The parent's answer to a control command, such as `running`, `cancel`, `run`, `workers`, `alive`."""
        return self._link.control(command, data)


# --- the loop ---


class Worker:
    """Subclass it and name the subclass in `worker_cls` to have these called; `worker_kwargs` are its arguments."""

    def __init__(self, worker_id=0, idle_timeout=0):
        self.worker_id = worker_id
        self.idle_timeout = idle_timeout  # seconds without a task before on_idle; 0 is never

    def on_start(self):
        """Before the worker is ready. An error ends it."""

    def on_shutdown(self):
        """When it ends in good order."""

    def pre_task(self, message):
        """Before each task."""

    def post_task(self, result):
        """After each task, before its event is sent."""

    def on_idle(self):
        """After `idle_timeout` seconds without a task."""


class Loop:
    def __init__(self, worker, link, gate):
        self.worker, self.link, self.gate = worker, link, gate
        self.ppid = os.getppid()
        self.stop_asked = self.leaving = False

    def run(self):
        set_handler(signal.SIGUSR1, self.link.doorbell)
        self._idle_mode()
        self.worker.on_start()
        try:
            self._send({"worker": self.link.worker_id, "event": "ready", "prefetch": 64})
            self._work()
            self._guard("on_shutdown", self.worker.on_shutdown)
            self._send({"worker": self.link.worker_id, "event": "shutdown"})
        except ParentGone:
            pass  # nobody is left to tell

    def should_exit(self):
        return self.stop_asked or self.leaving or os.getppid() != self.ppid

    def _work(self):
        timeout = self.worker.idle_timeout or None
        while not self.should_exit():
            try:
                frame = self.link.next_task(timeout, self.should_exit)
            except ParentGone:
                return
            if frame is None:
                if not self.should_exit():
                    self._guard("on_idle", self.worker.on_idle)
                continue
            try:
                message = decode(frame)
            except (ValueError, RecursionError) as error:
                now = time.time()
                self._done({"uuid": None, "result": None, "time_started": now, "time_finish": now, "error": describe(error)})
                continue
            if message == "stop":
                return
            if isinstance(message, dict):
                self._task(message)
            else:
                logger.warning("frame that is neither a task nor a note, skipped: %.200r", message)

    def _task(self, message):
        uuid = message.get("uuid", "<unknown>")
        self.link.begin(uuid)
        # The operating system's own, so that a task may install its own and SIGTERM ends one that did not.
        set_handler(signal.SIGTERM, SIG_DFL)
        set_handler(signal.SIGINT, SIG_DFL)
        self._guard("pre_task", self.worker.pre_task, message)
        started = time.time()
        result, error = None, None
        try:
            self.gate.check(message)
        except (TaskRefused, RecursionError) as refusal:
            error = refusal
        else:
            result, error = self._perform(message, uuid)
        event = {"result": result, "uuid": uuid, "time_started": started, "time_finish": time.time()}
        if self.leaving:
            event["is_stopping"] = True
        if error is not None:
            event["error"] = describe(error)
        self.link.end()
        self._idle_mode()
        self._done(event)

    def _perform(self, message, uuid):
        """Runs one callable, then what follows it; the result, and the exception if there was one."""
        result = error = None
        try:
            try:
                self.link.arm()
                result = self._call(message, uuid)
            finally:
                self.link.disarm()
        except DispatcherCancel:
            self.link.disarm()  # the doorbell may have rung on the way out
            result = CANCELLED
        except DispatcherExit as leaving:
            self.leaving, result = True, leaving.result
        except Exception as raised:
            error = raised
            self._follow(message, "errbacks", uuid)
        self._follow(message, "callbacks", uuid)
        return (result if type(result) in (str, int, list, dict) else None), error

    def _call(self, message, uuid):
        function, bind = resolve(message.get("task"))
        if isinstance(function, type):
            function = function().run
        args = message.get("args", ())
        if bind or message.get("bind"):
            args = [Bound(self.link, uuid, message.get("attempt", 1)), *args]
        return function(*args, **message.get("kwargs", {}))

    def _follow(self, message, key, uuid):
        followers = message.get(key)
        for follower in followers if isinstance(followers, list) else ():
            if self.leaving:
                return
            if isinstance(follower, dict):
                _, error = self._perform(follower, uuid)
            else:
                error = TypeError("an entry is an object with task, args, kwargs, not %.200r" % (follower,))
            if error is not None:
                logger.error("one of the %s of task %s failed", key, uuid, exc_info=error)

    def _done(self, event):
        self._guard("post_task", self.worker.post_task, dict(event, worker=self.link.worker_id, event="done"))
        self._send(dict({"worker": self.link.worker_id, "event": "done"}, **event))

    def _send(self, event):
        self.link.send(encode_event(event))

    def _idle_mode(self):
        set_handler(signal.SIGTERM, self._ask_stop)
        set_handler(signal.SIGINT, self._ask_stop)

    def _ask_stop(self, _signal, _frame):
        self.stop_asked = True

    def _guard(self, name, callback, *args):
        try:
            callback(*args)
        except Exception:
            logger.exception("%s of worker %d failed, carried on", name, self.link.worker_id)


def worker_settings(environ=os.environ):
    """The settings as a whole, and their section `worker`."""
    settings = json.loads(environ.get("DISPATCH_WORKER_SETTINGS") or "{}")
    return settings, settings.get("worker") or {}


def prepare_process():
    """What every worker process does first."""
    # Modules are looked for in the current directory, as with `python -m`, not where this file happens to lie.
    here = os.path.dirname(os.path.abspath(__file__)) if "__file__" in globals() else None
    if here is not None and sys.path and sys.path[0] and os.path.abspath(sys.path[0]) == here:
        sys.path[0] = ""
        sys.path.append(here)  # for `from dispatch_worker import task` in the program's own modules
    for stream in (sys.stdout, sys.stderr):
        # By lines: the parent logs them as they come, and a killed worker takes none with it.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)


def main():
    sys.modules["dispatch_worker"] = sys.modules[__name__]
    prepare_process()
    _, section = worker_settings()
    worker_id = int(os.environ.get("DISPATCH_WORKER_ID") or 0)
    name = section.get("worker_cls") or ""
    # dispatcherd's default is what its settings say when nobody chose a class.
    if name in ("", "dispatcherd.worker.task.TaskWorker"):
        cls = Worker
    else:
        cls = resolve(name)[0]
    worker = cls(worker_id=worker_id, **(section.get("worker_kwargs") or {}))
    Loop(worker, Link(worker_id=worker_id), Gate()).run()


if __name__ == "__main__":
    main()
