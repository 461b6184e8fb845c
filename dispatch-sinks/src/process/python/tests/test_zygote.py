"""The zygote over a real socket."""

import json
import os
import signal
import sys
import tempfile
import time
import unittest

from harness import LIMIT, Pipes, ZygoteProcess, need_python, python_of


def exists(pid):
    """Whether the process is there and not a zombie."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Zygotes(unittest.TestCase):
    def zygote(self, **keys):
        zygote = ZygoteProcess(**keys)
        self.addCleanup(zygote.end)
        return zygote

    def spawn(self, zygote, worker_id, *args, **keys):
        pipes = zygote.spawn(worker_id, *args, **keys)
        self.addCleanup(pipes.close)
        pid = zygote.answer("spawned")["pid"]
        self.assertEqual(pipes.event("ready")["worker"], worker_id)
        return pipes, pid

    def test_workers_start_warm(self):
        zygote = self.zygote(preload="warm")
        self.assertEqual(zygote.answer("ready"), {"pid": zygote.process.pid, "preloaded": ["warm"]})
        for worker_id in (0, 1):
            pipes, pid = self.spawn(zygote, worker_id)
            pipes.frame({"task": "warm.who", "uuid": "w"})
            self.assertEqual(pipes.event("done")["result"], [zygote.process.pid, pid, zygote.process.pid])
            pipes.frame({"task": "warm.still_open", "uuid": "s"})
            pipes.event("done")
            pipes.stop()
            pipes.event("shutdown")
            self.assertIsNone(pipes.next_line())
            self.assertEqual(zygote.answer("exited"), {"worker_id": worker_id, "pid": pid, "status": 0})

    def test_descriptors_of_preloaded_modules_are_not_run_over(self):
        zygote = self.zygote(preload="warm")
        zygote.answer("ready")
        pipes, _ = self.spawn(zygote, 0, env={"DISPATCH_LAMBDA_TASKS": "1"})
        pipes.frame({"task": "lambda: int(__import__('warm').still_open())", "uuid": "s"})
        self.assertEqual(pipes.event("done")["result"], 1)
        pipes.frame({"task": "warm.open_sockets", "uuid": "s"})
        self.assertEqual(pipes.event("done")["result"], [], "the zygote's socket is open in a worker")

    def test_both_shims_are_there(self):
        need_python("dispatcherd")
        zygote = self.zygote(python=python_of("dispatcherd"), preload="toys", env={"DISPATCH_TEST_TOYS": "dispatcherd"})
        zygote.answer("ready")
        for worker_id, kind in enumerate(("standalone", "dispatcherd", "dispatcherd")):
            pipes, _ = self.spawn(zygote, worker_id, kind)
            pipes.task("bound" if kind == "dispatcherd" else "Runnable", uuid="k")
            self.assertEqual(pipes.event("done")["result"], ["k", worker_id] if kind == "dispatcherd" else ["ran"])

    def test_the_environment_of_a_request_is_its_workers_alone(self):
        zygote = self.zygote(env={"FROM_PARENT": "p", "TO_GO": "x"})
        zygote.answer("ready")
        pipes, _ = self.spawn(zygote, 5, env={"MINE": "m", "TO_GO": None})
        names = ["FROM_PARENT", "MINE", "TO_GO", "DISPATCH_WORKER_ID", "DISPATCH_ZYGOTE_FD", "DISPATCH_PRELOAD"]
        pipes.task("environment", *names)
        self.assertEqual(pipes.event("done")["result"], ["p", "m", None, "5", None, None])
        pipes, _ = self.spawn(zygote, 6)
        pipes.task("environment", *names)
        self.assertEqual(pipes.event("done")["result"], ["p", None, "x", "6", None, None])

    def test_settings_reach_the_worker(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        path = os.path.join(directory.name, "log")
        zygote = self.zygote()
        zygote.answer("ready")
        settings = {"worker": {"worker_cls": "toys.Hooked", "worker_kwargs": {"path": path}}}
        self.spawn(zygote, 0, env={"DISPATCH_WORKER_SETTINGS": json.dumps(settings)})
        self.assertTrue(os.path.exists(path))

    def test_output_goes_where_the_request_says(self):
        zygote = self.zygote()
        zygote.answer("ready")
        (out_read, out), (err_read, err) = os.pipe(), os.pipe()
        pipes, _ = self.spawn(zygote, 0, output=(out, err))
        os.close(out)
        os.close(err)
        pipes.task("say", "to out", "to err")
        pipes.event("done")
        self.assertEqual(os.read(out_read, 100), b"to out\n")
        self.assertEqual(os.read(err_read, 100), b"to err\n")
        pipes.stop()
        pipes.event("shutdown")
        self.assertEqual(os.read(out_read, 100), b"", "somebody else holds the worker's output")
        os.close(out_read)
        os.close(err_read)

    def test_a_killed_worker_is_reported_at_once(self):
        zygote = self.zygote(preload="toys")
        zygote.answer("ready")
        pipes, pid = self.spawn(zygote, 9)
        pipes.task("touch_and_sleep", "/dev/null")
        started = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self.assertEqual(zygote.answer("exited"), {"worker_id": 9, "pid": pid, "status": -signal.SIGKILL})
        self.assertLess(time.monotonic() - started, 1)
        self.assertIsNone(pipes.next_line())
        self.spawn(zygote, 10)

    def test_exits_and_signals_are_told_apart(self):
        zygote = self.zygote(preload="toys")
        zygote.answer("ready")
        ends = (
            ("leave_process", 5, 5),
            ("leave_process", "text", 1),
            ("leave_process", None, 0),
            ("kill_self", 11, -signal.SIGSEGV),
        )
        for worker_id, (task, argument, status) in enumerate(ends):
            pipes, pid = self.spawn(zygote, worker_id)
            pipes.task(task, argument)
            self.assertEqual(zygote.answer("exited"), {"worker_id": worker_id, "pid": pid, "status": status})

    def test_many_at_once_are_all_started_and_all_reported(self):
        zygote = self.zygote(preload="toys")
        zygote.answer("ready")
        pipes = {worker_id: zygote.spawn(worker_id) for worker_id in range(20)}
        for one in pipes.values():
            self.addCleanup(one.close)
        pids = {}
        for _ in pipes:
            spawned = zygote.answer("spawned")
            pids[spawned["worker_id"]] = spawned["pid"]
        self.assertEqual(sorted(pids), sorted(pipes))
        for one in pipes.values():
            one.event("ready")
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        self.assertEqual(sorted(zygote.answer("exited")["pid"] for _ in pids), sorted(pids.values()))

    def test_each_worker_sees_the_end_of_its_own_pipe(self):
        zygote = self.zygote(preload="toys")
        zygote.answer("ready")
        # All requests lie in the socket at once, with their descriptors.
        pipes = [zygote.spawn(worker_id) for worker_id in range(3)]
        for one in pipes:
            zygote.answer("spawned")
            one.event("ready")
        for worker_id, one in enumerate(pipes):
            one.close_tasks()
            one.event("shutdown")
            self.assertIsNone(one.next_line(), "another process holds its pipe")
            one.close()
            self.assertEqual(zygote.answer("exited")["worker_id"], worker_id)

    def test_a_cancel_and_a_sigterm_reach_a_forked_worker(self):
        zygote = self.zygote(preload="toys")
        zygote.answer("ready")
        pipes, pid = self.spawn(zygote, 0)
        pipes.task("handlers")
        self.assertEqual(pipes.event("done")["result"], [True, True])
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        path = os.path.join(directory.name, "started")
        pipes.task("touch_and_sleep", path)
        end = time.monotonic() + LIMIT
        while not os.path.exists(path):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.002)
        while pipes.quiet(0.5):
            os.kill(pid, signal.SIGUSR1)
        self.assertEqual(pipes.event("done")["result"], "<cancel>")
        os.kill(pid, signal.SIGTERM)
        pipes.event("shutdown")
        self.assertEqual(zygote.answer("exited")["status"], 0)

    def test_signals_to_the_group_leave_the_zygote_to_its_parent(self):
        zygote = self.zygote()
        zygote.answer("ready")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            zygote.process.send_signal(number)
        self.spawn(zygote, 0)

    def test_it_ends_with_its_socket_and_its_workers_with_their_pipes(self):
        zygote = self.zygote()
        zygote.answer("ready")
        pipes, pid = self.spawn(zygote, 0)
        zygote.control.close()
        self.assertEqual(zygote.process.wait(timeout=LIMIT), 0)
        self.assertTrue(exists(pid))
        pipes.close_tasks()
        pipes.event("shutdown")
        self.assertIsNone(pipes.next_line())

    def test_a_killed_zygote_is_a_dead_parent_to_its_workers(self):
        zygote = self.zygote()
        zygote.answer("ready")
        pipes, _ = self.spawn(zygote, 0)
        zygote.process.kill()
        zygote.process.wait()
        pipes.task("noop")  # wakes it
        pipes.event("shutdown")
        self.assertIsNone(pipes.next_line())

    def test_a_module_that_does_not_import_is_named_and_the_others_go_on(self):
        zygote = self.zygote(preload="no_such_module, warm")
        failed = zygote.answer()
        self.assertEqual(failed["module"], "no_such_module")
        self.assertIn("ModuleNotFoundError", failed["error"])
        self.assertEqual(zygote.answer("ready")["preloaded"], ["warm"])
        self.spawn(zygote, 0)

    def test_a_module_that_starts_threads_is_named(self):
        zygote = self.zygote(preload="threads")
        self.assertIn("lurker", zygote.answer("error"))
        self.assertEqual(zygote.answer("ready")["preloaded"], ["threads"])

    def test_bad_requests_are_answered_and_leak_nothing(self):
        zygote = self.zygote()
        zygote.answer("ready")
        for request in (
            b"junk",
            b"[]",
            b"{}",
            {"spawn": {}},
            {"spawn": {"worker_id": "x"}},
            {"spawn": {"worker_id": 1, "shim": "perl"}},
        ):
            zygote.request(request)
            self.assertIn("request", zygote.answer("error"))
        zygote.request({"spawn": {"worker_id": 1}})
        self.assertIn("descriptors", zygote.answer("error"))
        pipes = Pipes()
        zygote.request({"spawn": {"worker_id": 1, "fds": 3}}, [pipes.worker_tasks, pipes.worker_events])
        self.assertIn("descriptors", zygote.answer("error"))
        pipes.hand_over()
        self.assertIsNone(pipes.next_line(), "the zygote keeps a descriptor that it was sent")
        pipes.close()
        pipes, _ = self.spawn(zygote, 2)
        pipes.task("noop")
        pipes.event("done")

    def test_a_missing_dispatcherd_is_reported_and_closes_the_pipes(self):
        # -S: without the packages that are installed beside the interpreter.
        with tempfile.TemporaryDirectory() as directory:
            python = os.path.join(directory, "python")
            with open(python, "w") as file:
                file.write('#!/bin/sh\nexec "%s" -S "$@"\n' % sys.executable)
            os.chmod(python, 0o755)
            zygote = self.zygote(python=python)
            zygote.answer("ready")
        pipes = zygote.spawn(3, "dispatcherd")
        self.assertIn("ModuleNotFoundError", zygote.answer("error"))
        self.assertIsNone(pipes.next_line())
        pipes.close()

    def test_a_fork_is_quick(self):
        zygote = self.zygote(preload="toys,json,asyncio,http.client,email.message")
        zygote.answer("ready")
        times = []
        for worker_id in range(20):
            started = time.monotonic()
            self.spawn(zygote, worker_id)
            times.append(time.monotonic() - started)
        sys.stderr.write("zygote: request to ready, median %.1f ms of 20\n" % (sorted(times)[10] * 1000))
        self.assertLess(sorted(times)[10], 0.2)


if __name__ == "__main__":
    unittest.main()
