"""A worker process for dispatch that runs dispatcherd's own worker: its `worker_cls` with every callback, its registry, its loop.

Needs the package dispatcherd, and dispatch_worker.py beside it, whose environment it shares. DISPATCH_WORKER_SETTINGS is the whole
of dispatcherd's settings, so that tasks find them as they would in its own service.
"""

import functools
import logging
import os
import queue
import signal
import sys
import time

import dispatch_worker
from dispatch_worker import SIG_DFL, set_handler

logger = logging.getLogger("dispatch.worker")


class TaskQueue:
    """What the worker reads from: a `multiprocessing.Queue`, as far as it looks at it."""

    def __init__(self, link, gate):
        self.link, self.gate = link, gate
        self.worker = None  # set as soon as there is one
        self.message = None  # the task at work
        self.command = None  # the control command whose answer the next `get` is for
        self.finished = None

    def get(self, block=True, timeout=None):
        if self.command is not None:
            command, self.command = self.command, None
            return self.link.control(*command)
        if not block:
            timeout = 1e-9
        while True:
            try:
                frame = self.link.next_task(timeout, self.worker.should_exit)
            except dispatch_worker.ParentGone:
                return "stop"
            if frame is None:
                if self.worker.should_exit():
                    return "stop"  # SIGTERM while idle: the loop would look at it only after its next task
                raise queue.Empty
            message = self._admit(frame)
            if message is not None:
                return message

    def get_nowait(self):
        return self.get(block=False)

    def _admit(self, frame):
        """The message, or None after having answered for it."""
        now = time.time()
        refused = {"event": "done", "result": None, "uuid": None, "time_started": now, "time_finish": now}
        try:
            message = dispatch_worker.decode(frame)
            if isinstance(message, dict):
                refused["uuid"] = message.get("uuid")
                self.gate.check(message)
                self.message = message
                self.link.begin(message.get("uuid", "<unknown>"))
                return message
        except (ValueError, RecursionError, dispatch_worker.TaskRefused) as error:
            refused["error"] = dispatch_worker.describe(error)
            self.finished.put(dict({"worker": self.link.worker_id}, **refused))
            return None
        if message == "stop":
            return message
        logger.warning("frame that is neither a task nor a note, skipped: %.200r", message)
        return None


class EventQueue:
    """What the worker writes to."""

    def __init__(self, link, tasks):
        self.link, self.tasks = link, tasks
        self.error = None  # what the task at work raised

    def put(self, event, block=True, timeout=None):
        kind = event.get("event")
        if kind == "control":
            # Asked when the answer is fetched: then no cancel can come between the two.
            self.tasks.command = (event.get("command"), event.get("control_data"))
            return
        if kind == "done":
            self.link.end()
            if self.error is not None:
                event = dict(event, error=dispatch_worker.describe(self.error))
            self.error = self.tasks.message = self.tasks.command = None
        elif kind == "ready":
            event = dict(event, prefetch=64)
        try:
            self.link.send(dispatch_worker.encode_event(event))
        except dispatch_worker.ParentGone:
            os._exit(0)  # nobody is left to tell, and dispatcherd would only report the pipe

    def put_nowait(self, event):
        self.put(event)

    def close(self):
        pass

    join_thread = cancel_join_thread = close


def hasten_signals(handler):
    """Lets dispatcherd's own handler set signals by way of `_signal`.

    It sets six a task through the module `signal`, which turns numbers into enums and back: a third of what a short task
    costs its worker. A handler of another class does it in its own way.
    """
    from dispatcherd.worker.task import WorkerSignalHandler

    if type(handler) is not WorkerSignalHandler:
        return
    leave, cancel = handler.exit_gracefully, handler.task_cancel

    def enter_idle_mode():
        set_handler(signal.SIGINT, leave)
        set_handler(signal.SIGTERM, leave)
        set_handler(signal.SIGUSR1, cancel)

    def enter_task():
        # SIGUSR1 is as the idle mode has set it: nothing of the program has run since.
        set_handler(signal.SIGINT, SIG_DFL)
        set_handler(signal.SIGTERM, SIG_DFL)

    handler.enter_idle_mode, handler.enter_task = enter_idle_mode, enter_task


def instrument(worker, link, tasks, events):
    """Puts the doorbell before the worker's own SIGUSR1, and takes note of what a task raises. Changes nothing else of it."""
    from dispatcherd.worker.exceptions import DispatcherCancel, DispatcherExit
    from dispatcherd.worker.task import TaskWorker

    def cancel():
        raise DispatcherCancel

    link.cancel = cancel
    # A class that does the work in its own way has no `run_callable` to go by: then the whole of its task mode may be cancelled.
    by_callable = getattr(type(worker), "perform_work", None) is TaskWorker.perform_work

    handler = getattr(worker, "signal_handler", None)
    if handler is not None:
        # What both modes install; theirs would raise in the middle of a read.
        handler.task_cancel = link.doorbell
        hasten_signals(handler)
    worker.enter_idle_mode()

    def mode(enter, arm):
        @functools.wraps(enter)
        def entered():
            if not arm:
                link.disarm()
            enter()
            set_handler(signal.SIGUSR1, link.doorbell)
            if arm:
                link.arm()

        return entered

    if not by_callable or signal.getsignal(signal.SIGUSR1) != link.doorbell:
        worker.enter_idle_mode = mode(worker.enter_idle_mode, False)
        worker.enter_task_mode = mode(worker.enter_task_mode, not by_callable)
    if not by_callable:
        return
    run_callable = worker.run_callable

    @functools.wraps(run_callable)
    def observed(message):
        try:
            link.arm()
            return run_callable(message)
        except (DispatcherCancel, DispatcherExit):
            raise
        except Exception as error:
            if message is tasks.message:  # not one of its callbacks
                events.error = error
            raise
        finally:
            link.disarm()

    worker.run_callable = observed


def main():
    dispatch_worker.prepare_process()
    from dispatcherd.config import setup
    from dispatcherd.utils import resolve_callable
    from dispatcherd.worker.target import work_loop_internal

    settings, section = dispatch_worker.worker_settings()
    if settings:
        setup(config=settings)
    worker_id = int(os.environ.get("DISPATCH_WORKER_ID") or 0)
    link = dispatch_worker.Link(worker_id=worker_id)
    tasks = TaskQueue(link, dispatch_worker.Gate())
    events = EventQueue(link, tasks)
    tasks.finished = events
    cls = resolve_callable(section.get("worker_cls") or "dispatcherd.worker.task.TaskWorker")
    worker = cls(worker_id=worker_id, message_queue=tasks, finished_queue=events, **(section.get("worker_kwargs") or {}))
    tasks.worker = worker
    instrument(worker, link, tasks, events)
    work_loop_internal(worker)


if __name__ == "__main__":
    sys.modules["dispatch_dispatcherd"] = sys.modules[__name__]
    main()
