"""The zygote: imports a program's modules once, then forks a warm worker for each request.

Requests and answers are lines of JSON on a unix stream socket, descriptor DISPATCH_ZYGOTE_FD (default 3). DISPATCH_PRELOAD names the
modules to import first, comma separated. It ends when the socket closes, and nothing else ends it: its workers see the end of their
own pipes. docs/workers.md has the whole protocol.

-> {"spawn": {"worker_id": 7, "shim": "standalone" | "dispatcherd", "env": {...}, "fds": 2 | 4}}
   with descriptors by SCM_RIGHTS: the worker's end of the tasks' pipe, of the events' pipe, and with 4 its stdout and stderr
<- {"ready": {"pid": 41, "preloaded": ["app.tasks"]}}               once, after the imports
<- {"error": "...", "module": "app.tasks"}                          that module did not import; the others go on
<- {"spawned": {"worker_id": 7, "pid": 43}}
<- {"error": "...", "worker_id": 7}                                 that worker could not be started
<- {"exited": {"worker_id": 7, "pid": 43, "status": 0}}             at once; a signal's number is negative
"""

import atexit
import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from importlib import import_module

import dispatch_worker

MAX_FDS = 4
SHIMS = {"standalone": "dispatch_worker", "dispatcherd": "dispatch_dispatcherd"}
# Descriptors that a worker's pipes take. Nothing that a preloaded module opens may lie there.
RESERVED = (dispatch_worker.TASKS_FD, dispatch_worker.EVENTS_FD)


class BadRequest(Exception):
    """A request that cannot be carried out: what it says, or what came with it."""


class Zygote:
    def __init__(self, control):
        self.control = control
        self.workers = {}  # pid -> worker id
        self.partial = b""
        self.fds = deque()  # received, and not yet a worker's
        self.wake_read, self.wake_write = os.pipe()
        for fd in (self.wake_read, self.wake_write):
            os.set_blocking(fd, False)

    def take_signals(self):
        # The parent says when to end, by closing the socket; a signal to the whole group is for the workers. Handlers that do
        # nothing, since SIG_IGN would be handed on to the programs that a module starts.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)

    def preload(self, names):
        self.take_signals()
        loaded = []
        for name in names:
            try:
                import_module(name)
                loaded.append(name)
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                self.tell({"error": "preload %s: %s: %s" % (name, type(error).__name__, error), "module": name})
            if threading.active_count() > 1:
                # A fork copies the calling thread alone: locks that the others hold stay locked in every worker.
                names_of = ", ".join(thread.name for thread in threading.enumerate()[1:])
                self.tell(
                    {"error": "preload %s started threads (%s), which no worker will have" % (name, names_of), "module": name}
                )
        # Imports are shared with the workers, page by page, until something writes there; the collector would.
        gc.collect()
        gc.freeze()
        self.take_signals()  # again: a module may have put its own in their place
        self.tell({"ready": {"pid": os.getpid(), "preloaded": loaded}})

    def serve(self):
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.wake_read, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self.wake_read in ready:
                try:
                    os.read(self.wake_read, 512)
                except BlockingIOError:
                    pass
                self.reap()
            if self.control.fileno() in ready and not self.receive():
                return

    def receive(self):
        """Reads requests and carries them out; false at the end."""
        # One more than is allowed, to see that there were too many.
        room = socket.CMSG_SPACE((MAX_FDS + 1) * 4)
        try:
            data, ancillary, _, _ = self.control.recvmsg(65536, room, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        except ConnectionResetError:
            return False
        for level, kind, body in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                for at in range(0, len(body) - len(body) % 4, 4):
                    self.fds.append(int.from_bytes(body[at : at + 4], sys.byteorder))
        if not data:
            return False
        *lines, self.partial = (self.partial + data).split(b"\n")
        for line in lines:
            self.request(line)
        return True

    def request(self, line):
        worker_id = None
        fds = []
        try:
            try:
                spawn = json.loads(line)["spawn"]
                worker_id, count = int(spawn["worker_id"]), spawn.get("fds", 2)
                shim, env = SHIMS[spawn.get("shim", "standalone")], dict(spawn.get("env") or {})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                fds, self.fds = list(self.fds), deque()  # nobody can say any more whose they are
                raise BadRequest('request is not {"spawn": {...}} as documented: %r: %.200r' % (error, line)) from None
            fds = [self.fds.popleft() for _ in range(min(len(self.fds), MAX_FDS if count == MAX_FDS else 2))]
            if count not in (2, MAX_FDS) or len(fds) != count:
                raise BadRequest("%r descriptors announced (2 or 4 can be), %d came along" % (count, len(fds)))
            try:
                # Before the fork, so that it is imported once.
                module = import_module(shim)
                if shim == "dispatch_dispatcherd":
                    import_module("dispatcherd.worker.target")
            except Exception as error:
                traceback.print_exc()
                raise BadRequest("shim %s: %s: %s" % (spawn.get("shim"), type(error).__name__, error)) from error
            self.spawn(worker_id, module, env, fds)
        except (BadRequest, OSError) as error:
            self.tell({"error": str(error), "worker_id": worker_id})
        finally:
            for fd in fds:
                os.close(fd)

    def spawn(self, worker_id, module, env, fds):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or each worker would write it again
        pid = os.fork()
        if pid == 0:
            self.become_worker(worker_id, module, env, fds)
        self.workers[pid] = worker_id
        self.tell({"spawned": {"worker_id": worker_id, "pid": pid}})

    def become_worker(self, worker_id, module, env, fds):
        """The child's side; never returns."""
        code = 1
        try:
            # What the zygote registered is the zygote's to run.
            atexit._clear()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # Held on to, they would keep other workers' pipes open, and this socket.
            for fd in (self.control.detach(), self.wake_read, self.wake_write, *self.fds):
                os.close(fd)
            # First out of the way, then into place: the numbers may overlap.
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in fds]
            for fd in fds:
                os.close(fd)
            for fd, target in zip(high, (*RESERVED, 1, 2)):
                os.dup2(fd, target, inheritable=target < 3)
                os.close(fd)
            for name, value in env.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = str(value)
            os.environ["DISPATCH_WORKER_ID"] = str(worker_id)
            module.main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code
            if code is None:
                code = 0
            elif not isinstance(code, int):
                print(code, file=sys.stderr)
                code = 1
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                atexit._run_exitfuncs()
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
            finally:
                os._exit(code & 0xFF)

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            # Others may be what a preloaded module started.
            worker_id = self.workers.pop(pid, None)
            if worker_id is not None:
                code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                self.tell({"exited": {"worker_id": worker_id, "pid": pid, "status": code}})

    def tell(self, event):
        self.control.sendall(json.dumps(event).encode("ascii") + b"\n")


def main():
    fd = int(os.environ.pop("DISPATCH_ZYGOTE_FD", None) or 3)
    # Out of the workers' way, whose descriptors are then taken until they need them.
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)
    os.close(fd)
    null = os.open(os.devnull, os.O_RDWR)
    for target in RESERVED:
        if target != null:
            os.dup2(null, target, inheritable=False)
    if null not in RESERVED:
        os.close(null)
    # A worker starts with the modules' path that the zygote has.
    dispatch_worker.prepare_process()
    sys.modules["dispatch_zygote"] = sys.modules[__name__]
    zygote = Zygote(socket.socket(fileno=moved))
    try:
        zygote.preload([name.strip() for name in os.environ.pop("DISPATCH_PRELOAD", "").split(",") if name.strip()])
        zygote.serve()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent has gone


if __name__ == "__main__":
    main()
