"""Both shims over real pipes, row by row of the protocol. Run: python3 -m unittest discover -s <this directory>"""

import json
import os
import signal
import tempfile
import time
import unittest

from harness import LIMIT, WorkerProcess, need_python

NESTED = '{"nan": NaN, "inf": [Infinity, -Infinity], "int": 123456789012345678901234567890, "lone": "\\ud800", "astral": "\\ud83d\\ude00"}'


class Protocol:
    """Every test here runs once for each shim."""

    kind = None

    @classmethod
    def setUpClass(cls):
        need_python(cls.kind)

    def worker(self, **keys):
        worker = WorkerProcess(self.kind, **keys)
        self.addCleanup(worker.end)
        return worker

    def path(self, name="file"):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return os.path.join(directory.name, name)

    def await_file(self, path):
        end = time.monotonic() + LIMIT
        while not os.path.exists(path):
            self.assertLess(time.monotonic(), end, "the task has not started")
            time.sleep(0.002)

    def run_one(self, name, *args, env=None, **keys):
        worker = self.worker(env=env)
        worker.task(name, *args, **keys)
        return worker.event("done")

    def finish(self, worker):
        worker.stop()
        worker.event("shutdown")
        self.assertIsNone(worker.next_line())
        self.assertEqual(worker.wait(), 0, worker.err)

    # --- the loop ---

    def test_a_worker_gets_ready_works_and_shuts_down(self):
        worker = self.worker(worker_id=7)
        self.assertEqual(worker.ready, {"worker": 7, "event": "ready", "prefetch": 64})
        before = time.time()

        worker.task("echo", 1, uuid="one", kwargs={"a": 2})
        done = worker.event("done")

        self.assertLessEqual(before, done.pop("time_started"))
        self.assertLessEqual(done.pop("time_finish"), time.time())
        self.assertEqual(done, {"worker": 7, "event": "done", "uuid": "one", "result": {"args": [1], "kwargs": {"a": 2}}})
        worker.stop()
        self.assertEqual(worker.event("shutdown"), {"worker": 7, "event": "shutdown"})
        self.assertIsNone(worker.next_line())
        self.assertEqual(worker.wait(), 0)

    def test_the_end_of_the_tasks_pipe_is_a_stop(self):
        worker = self.worker()
        worker.task("echo")
        worker.close_tasks()
        worker.event("done")
        worker.event("shutdown")
        self.assertEqual(worker.wait(), 0)

    def test_a_worker_whose_parent_reads_no_more_ends(self):
        worker = self.worker()
        os.close(worker.events)
        worker.events = None
        worker.task("noop")
        self.assertEqual(worker.wait(), 0, worker.err)

    def test_tasks_before_the_stop_are_done_in_order(self):
        worker = self.worker()
        for number in range(50):
            worker.task("noop", uuid=str(number))
        worker.stop()
        self.assertEqual([worker.event("done")["uuid"] for _ in range(50)], [str(number) for number in range(50)])
        worker.event("shutdown")

    def test_frames_may_come_in_pieces(self):
        worker = self.worker()
        frame = json.dumps({"task": "toys.echo", "uuid": "p", "args": ["x" * 5]}).encode() + b"\n"
        for at in range(0, len(frame), 7):
            worker.write(frame[at : at + 7])
            time.sleep(0.001)
        self.assertEqual(worker.event("done")["result"]["args"], ["xxxxx"])

    def test_a_large_frame_goes_both_ways(self):
        text = "y" * 3_000_000
        done = self.run_one("echo", text)
        self.assertEqual(done["result"]["args"], [text])

    def test_a_large_result_is_written_whole_to_a_slow_reader(self):
        worker = self.worker()
        worker.task("big", 2_000_000)
        worker.task("noop", uuid="next")
        time.sleep(0.1)  # the pipe is full by now
        worker.signal(signal.SIGUSR1)
        self.assertEqual(len(worker.event("done")["result"]), 2_000_000)
        self.assertEqual(worker.event("done")["uuid"], "next")

    def test_blank_lines_unknown_notes_and_other_values_are_skipped(self):
        worker = self.worker()
        worker.write(b'\n  \n["what", 1]\n[]\n["cancel"\n17\n"go"\nnull\n')
        worker.task("noop", uuid="after")
        self.assertEqual(worker.event("done")["uuid"], "after")
        self.finish(worker)

    def test_a_frame_that_is_not_json_is_answered(self):
        worker = self.worker()
        worker.write(b'{"task": \n{"a": "\xff"}\n' + b'{"a":' * 100000 + b"\n")
        for _ in range(3):
            done = worker.event("done")
            self.assertIsNone(done["uuid"])
            self.assertIn("error", done)
        self.finish(worker)

    # --- values ---

    def test_odd_values_survive_both_ways(self):
        worker = self.worker()
        worker.write(b'{"task": "toys.echo", "uuid": "o", "args": [%s]}\n' % NESTED.encode())
        line = worker.next_line().decode()
        for token in ("NaN", "Infinity", "-Infinity", "123456789012345678901234567890", '"\\ud800"', '"\\ud83d\\ude00"'):
            self.assertIn(token, line)

    def test_results_of_other_types_are_null(self):
        worker = self.worker()
        kept = {"int": 5, "text": "s", "list": [1, 2.5], "dict": {"a": None}}
        for kind in ("none", "int", "text", "list", "dict", "float", "bool", "tuple", "bytes", "set", "object", "subclass"):
            worker.task("give", kind)
            done = worker.event("done")
            self.assertEqual(done["result"], kept.get(kind), kind)
            self.assertNotIn("error", done, kind)

    def test_a_result_that_json_cannot_hold_does_not_end_the_worker(self):
        worker = self.worker()
        for name, args in (
            ("give", ["list of objects"]),
            ("give", ["odd keys"]),
            ("give", ["bytes inside"]),
            ("give_circle", []),
            ("give_deep", []),
        ):
            worker.task(name, *args)
            self.assertIsNone(worker.event("done")["result"], (name, args))
        worker.task("give_long_int")
        self.assertIn(b"1" + b"0" * 5000, worker.next_line())
        self.finish(worker)

    # --- what is run ---

    def test_a_task_that_raises_tells_the_parent(self):
        done = self.run_one("boom", "the reason", uuid="b")
        self.assertIsNone(done["result"])
        self.assertEqual((done["uuid"], done["error"]["class"], done["error"]["message"]), ("b", "ValueError", "the reason"))
        self.assertIn("in boom", done["error"]["traceback"])

    def test_errors_are_bounded_and_need_not_be_printable(self):
        worker = self.worker()
        worker.task("boom", "m" * 100000)
        self.assertLess(len(worker.next_line()), 50000)
        worker.task("unprintable")
        self.assertEqual(worker.event("done")["error"]["class"], "toys.Unprintable")
        worker.task("recurse")
        self.assertEqual(worker.event("done")["error"]["class"], "RecursionError")
        self.finish(worker)

    def test_what_cannot_be_found_is_an_error(self):
        worker = self.worker()
        for message, kind in (
            ({"task": "nodot"}, "RuntimeError"),
            ({"task": ""}, "RuntimeError"),
            ({"task": "toys.no_such"}, "ImportError"),
            ({"task": "no_such_module.f"}, "ModuleNotFoundError"),
            ({"task": "toys.noop", "args": None}, None),
            ({"task": "toys.noop", "kwargs": None}, None),
            ({"task": 5}, None),
            ({}, None),
        ):
            worker.frame(dict(message, uuid="w"))
            done = worker.event("done")
            self.assertIn("error", done, message)
            if kind is not None:
                self.assertEqual(done["error"]["class"], kind, message)
        self.finish(worker)

    def test_a_class_is_made_and_run(self):
        self.assertEqual(self.run_one("Runnable", 1)["result"], ["ran", 1])

    def test_a_task_without_a_uuid_is_unknown(self):
        worker = self.worker()
        worker.frame({"task": "toys.noop"})
        self.assertEqual(worker.event("done")["uuid"], "<unknown>")

    def test_bind_comes_from_the_registry_or_the_message(self):
        worker = self.worker(worker_id=3)
        worker.task("bound", uuid="r")
        self.assertEqual(worker.event("done")["result"], ["r", 3])
        worker.task("environment", uuid="m", bind=True)
        self.assertIn("error", worker.event("done"))  # an object is no name of a variable

    def test_lambdas_run_only_when_allowed(self):
        worker = self.worker()
        worker.frame({"task": "lambda: 3", "uuid": "l"})
        self.assertIn("lambda_tasks", worker.event("done")["error"]["message"])
        worker = self.worker(env={"DISPATCH_LAMBDA_TASKS": "1"})
        worker.frame({"task": "lambda x: x", "uuid": "l", "args": [{"a": 1}]})
        self.assertEqual(worker.event("done")["result"], {"a": 1})

    def test_only_allowed_names_run_followers_included(self):
        worker = self.worker(env={"DISPATCH_TASK_ALLOW": "toys.n*, toys.read_trail"})
        for message, allowed in (
            ({"task": "toys.noop"}, True),
            ({"task": "toys.read_trail"}, True),
            ({"task": "toys.echo"}, False),
            ({"task": "os.getpid"}, False),
            ({"task": "toys.noop", "callbacks": [{"task": "os.getpid"}]}, False),
            ({"task": "toys.noop", "errbacks": [{"task": "toys.noop", "callbacks": [{"task": "os.getpid"}]}]}, False),
            ({"task": "lambda: 1"}, False),
        ):
            worker.frame(dict(message, uuid="a"))
            done = worker.event("done")
            self.assertEqual("error" not in done, allowed, message)
        self.assertTrue(done["error"]["class"].endswith("TaskRefused"))

    def test_followers_run_in_the_same_worker(self):
        worker = self.worker()
        back = [{"task": "toys.note", "args": ["errback"]}]
        on = [
            {"task": "toys.note", "args": ["callback"]},
            {"task": "toys.boom", "errbacks": [{"task": "toys.note", "args": ["nested"]}]},
        ]
        worker.task("noop", errbacks=back, callbacks=on)
        self.assertNotIn("error", worker.event("done"))
        worker.task("boom", errbacks=back, callbacks=on)
        self.assertEqual(worker.event("done")["error"]["message"], "x")
        worker.task("read_trail")
        self.assertEqual(worker.event("done")["result"], ["callback", "nested", "errback", "callback", "nested"])

    def test_a_voluntary_exit_ends_the_worker_after_its_task(self):
        for args, result in (([], "<exit>"), ([{"a": 1}], {"a": 1}), ([1.5], None)):
            worker = self.worker()
            worker.task("leave", *args, callbacks=[{"task": "toys.say", "args": ["called", ""]}])
            worker.task("noop", uuid="not run")
            done = worker.event("done")
            self.assertEqual((done["result"], done["is_stopping"]), (result, True))
            worker.event("shutdown")
            self.assertEqual(worker.wait(), 0)
            self.assertNotIn(b"called", worker.out)

    def test_an_exit_in_a_follower_ends_it_too(self):
        worker = self.worker()
        worker.task("give", "int", callbacks=[{"task": "toys.leave"}, {"task": "toys.say", "args": ["called", ""]}])
        done = worker.event("done")
        self.assertEqual((done["result"], done["is_stopping"]), (5, True))
        worker.event("shutdown")
        self.assertEqual(worker.wait(), 0)
        self.assertNotIn(b"called", worker.out)

    def test_a_task_may_end_its_process(self):
        worker = self.worker()
        worker.task("leave_process", 5)
        self.assertIsNone(worker.next_line())
        self.assertEqual(worker.wait(), 5)
        worker = self.worker()
        worker.task("kill_self", int(signal.SIGKILL))
        self.assertIsNone(worker.next_line())
        self.assertEqual(worker.wait(), -signal.SIGKILL)

    def test_what_a_task_prints_comes_line_by_line(self):
        worker = self.worker()
        worker.task("say", "to out", "to err")
        worker.event("done")
        worker.signal(signal.SIGKILL)  # nothing may be left in a buffer
        worker.wait()
        self.assertIn(b"to out\n", worker.out)
        self.assertIn(b"to err\n", worker.err)

    def test_processes_of_a_task_do_not_hold_the_pipes(self):
        self.assertEqual(self.run_one("open_descriptors")["result"], "[]")

    # --- control ---

    def test_a_bound_task_asks_the_parent(self):
        worker = self.worker(worker_id=2)
        worker.task("ask", "running", {"uuid": "x"})
        asked = worker.event("control")
        self.assertEqual(
            asked, {"worker": 2, "event": "control", "seq": asked["seq"], "command": "running", "control_data": {"uuid": "x"}}
        )
        worker.frame(["control", asked["seq"], {"worker-0": {"uuid": "x"}}])
        self.assertEqual(worker.event("done")["result"], {"worker-0": {"uuid": "x"}})

        worker.task("ask", "alive")
        asked = worker.event("control")
        self.assertNotIn("control_data", asked)
        worker.frame(["control", asked["seq"], {}])
        self.assertEqual(worker.event("done")["result"], {})

    def test_an_answer_is_told_from_a_task_that_waits(self):
        worker = self.worker()
        worker.task("ask", "alive", uuid="first")
        worker.task("noop", uuid="second")
        asked = worker.event("control")
        worker.frame(["control", asked["seq"], {"task": "toys.boom"}])
        self.assertEqual(worker.event("done")["result"], {"task": "toys.boom"})
        self.assertEqual(worker.event("done")["uuid"], "second")

    def test_a_cancel_reaches_a_task_that_waits_for_an_answer(self):
        for addressed in (True, False):
            worker = self.worker()
            worker.task("ask", "alive", uuid="c")
            asked = worker.event("control")
            done = worker.until("done", worker.cancel, "c") if addressed else worker.until("done", worker.plain)
            self.assertEqual(done["result"], "<cancel>")
            # The answer that nobody waits for any more must not become another's.
            worker.frame(["control", asked["seq"], {"stale": True}])
            worker.task("ask", "alive", uuid="d")
            again = worker.event("control")
            worker.frame(["control", again["seq"], {"fresh": True}])
            self.assertEqual(worker.event("done")["result"], {"fresh": True})

    def test_a_stale_answer_is_not_taken_within_one_task(self):
        worker = self.worker()
        worker.task("ask_and_survive", "first", uuid="s")
        first = worker.event("control")
        worker.cancel("s")
        second = worker.event("control")
        worker.frame(["control", first["seq"], {"stale": True}])
        worker.frame(["control", second["seq"], {"fresh": True}])
        self.assertEqual(worker.event("done")["result"], {"fresh": True})

    def test_a_parent_that_closes_instead_of_answering_is_an_error(self):
        worker = self.worker()
        worker.task("ask", "alive")
        worker.event("control")
        worker.close_tasks()
        self.assertIn("error", worker.event("done"))
        worker.event("shutdown")
        self.assertEqual(worker.wait(), 0)

    # --- cancel ---

    def test_a_plain_signal_cancels_what_runs(self):
        for name in ("touch_and_sleep", "spin"):
            worker, path = self.worker(), self.path()
            worker.task(name, path)
            self.await_file(path)
            done = worker.until("done", worker.plain)
            self.assertEqual(done["result"], "<cancel>", name)
            self.assertNotIn("error", done)
            self.finish(worker)

    def test_a_cancelled_task_runs_callbacks_and_no_errbacks(self):
        worker, path = self.worker(), self.path()
        worker.task(
            "touch_and_sleep",
            path,
            errbacks=[{"task": "toys.note", "args": ["errback"]}],
            callbacks=[{"task": "toys.note", "args": ["callback"]}],
        )
        self.await_file(path)
        worker.until("done", worker.plain)
        worker.task("read_trail")
        self.assertEqual(worker.event("done")["result"], ["callback"])

    def test_a_task_may_catch_the_cancel(self):
        worker, path = self.worker(), self.path()
        worker.task("swallow", path)
        self.await_file(path)
        self.assertEqual(worker.until("done", worker.plain)["result"], "tidied up")

    def test_an_addressed_cancel_is_raised_once_however_often_it_is_sent(self):
        worker, path, tidying = self.worker(), self.path(), self.path()
        worker.task("tidy_slowly", path, tidying, uuid="t")
        self.await_file(path)
        end = time.monotonic() + LIMIT
        while not os.path.exists(tidying):
            self.assertLess(time.monotonic(), end)
            worker.cancel("t")
            time.sleep(0.02)
        for _ in range(5):
            worker.cancel("t")
        self.assertEqual(worker.event("done")["result"], "tidied up")

    def test_signals_while_idle_change_nothing(self):
        worker = self.worker()
        for number in range(200):
            worker.signal(signal.SIGUSR1)
            if number % 10 == 0:
                worker.task("noop", uuid=str(number))
        done = [worker.event("done") for _ in range(20)]
        self.assertEqual([event["uuid"] for event in done], [str(number) for number in range(0, 200, 10)])
        self.finish(worker)

    def test_signals_in_the_middle_of_a_frame_lose_nothing(self):
        worker = self.worker()
        frame = json.dumps({"task": "toys.echo", "uuid": "p", "args": ["z" * 200000]}).encode() + b"\n"
        for at in range(0, len(frame), 1000):
            worker.write(frame[at : at + 1000])
            worker.signal(signal.SIGUSR1)
        self.assertEqual(worker.event("done")["result"], {"args": ["z" * 200000], "kwargs": {}})

    def test_a_storm_of_signals_loses_no_answer(self):
        worker = self.worker()
        for number in range(2000):
            worker.task("noop", uuid=str(number))
            worker.signal(signal.SIGUSR1)
            done = worker.event("done")
            self.assertEqual(done["uuid"], str(number))
            self.assertIn(done["result"], (None, "<cancel>"))
        self.finish(worker)

    def test_an_addressed_cancel_hits_only_its_task(self):
        worker, path = self.worker(), self.path()
        worker.task("touch_and_sleep", path, uuid="first")
        worker.task("give", "int", uuid="second")
        self.await_file(path)
        done = worker.until("done", worker.cancel, "first")
        self.assertEqual((done["uuid"], done["result"]), ("first", "<cancel>"))
        done = worker.event("done")
        self.assertEqual((done["uuid"], done["result"]), ("second", 5))

    def test_a_task_whose_uuid_is_a_number_is_called_by_its_text(self):
        worker, path = self.worker(), self.path()
        worker.task("touch_and_sleep", path, uuid=5)
        worker.task("boom", uuid=1.5)
        self.await_file(path)
        self.assertEqual(worker.until("revoked", worker.revoke, "1.5")["uuid"], "1.5")
        done = worker.until("done", worker.cancel, "5")
        self.assertEqual((done["uuid"], done["result"]), (5, "<cancel>"))

    def test_an_addressed_cancel_that_comes_late_hits_nobody(self):
        worker = self.worker()
        for number in range(300):
            worker.task("noop", uuid="first")
            worker.task("echo", "x" * 2000, uuid="second")
            worker.cancel("first")
            events = [worker.event() for _ in range(2)]
            self.assertEqual([event["uuid"] for event in events], ["first", "second"])
            if events[0]["event"] != "revoked":  # it came before the task was begun
                self.assertIn(events[0]["result"], (None, "<cancel>"))
            self.assertEqual(events[1]["result"]["args"], ["x" * 2000], number)

    def test_a_task_that_waits_can_be_taken_back(self):
        worker, path = self.worker(), self.path()
        worker.task("touch_and_sleep", path, uuid="first")
        worker.task("boom", uuid="second")
        self.await_file(path)
        self.assertEqual(worker.until("revoked", worker.revoke, "second"), {"worker": 0, "event": "revoked", "uuid": "second"})
        worker.revoke("first")  # runs already
        worker.revoke("nobody")
        self.assertEqual(worker.until("done", worker.cancel, "first")["result"], "<cancel>")
        worker.task("noop", uuid="third")
        self.assertEqual(worker.event("done")["uuid"], "third")
        self.finish(worker)

    def test_each_revoked_task_is_either_revoked_or_done(self):
        worker = self.worker()
        for _ in range(300):
            worker.task("noop", uuid="a")
            worker.task("noop", uuid="b")
            worker.revoke("b")
            kinds = [(event["event"], event["uuid"]) for event in (worker.event(), worker.event())]
            self.assertIn(("done", "a"), kinds)
            self.assertEqual(len({("done", "b"), ("revoked", "b")} & set(kinds)), 1, kinds)
        self.finish(worker)

    # --- signals ---

    def test_an_idle_worker_ends_at_once_on_sigterm(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            worker = self.worker()
            worker.task("use_asyncio")  # which takes the wake-up descriptor away
            worker.event("done")
            started = time.monotonic()
            worker.signal(number)
            worker.event("shutdown", limit=5)
            self.assertEqual(worker.wait(), 0)
            self.assertLess(time.monotonic() - started, 2)

    def test_a_task_has_the_systems_own_handlers(self):
        self.assertEqual(self.run_one("handlers")["result"], [True, True])

    def test_sigterm_kills_a_task_that_does_not_handle_it(self):
        worker, path = self.worker(), self.path()
        worker.task("touch_and_sleep", path)
        self.await_file(path)
        worker.signal(signal.SIGTERM)
        self.assertIsNone(worker.next_line())
        self.assertEqual(worker.wait(), -signal.SIGTERM)

    def test_a_task_may_handle_sigterm(self):
        worker, path = self.worker(), self.path()
        worker.task("own_sigterm", path)
        self.await_file(path)
        self.assertEqual(worker.until("done", worker.plain)["result"], "<cancel>")  # a cancel never triggers it
        os.unlink(path)
        worker.task("own_sigterm", path)
        self.await_file(path)
        self.assertEqual(worker.until("done", worker.signal, signal.SIGTERM)["result"], "caught")
        worker.signal(signal.SIGTERM)  # idle again: the worker's own
        worker.event("shutdown", limit=5)

    def test_a_worker_whose_parent_has_died_ends(self):
        # A shell between us and the worker, whose end leaves the pipes open.
        python = need_python(self.kind)
        from harness import SCRIPTS, SHIMS

        script = os.path.join(SHIMS, SCRIPTS[self.kind])
        worker = self.worker(command=["sh", "-c", '"$0" "$1" & wait', python, script])
        worker.task("parent")
        worker.event("done")
        worker.process.kill()
        worker.process.wait()
        worker.task("noop", uuid="not run")  # wakes it
        worker.event("shutdown")
        self.assertIsNone(worker.next_line())

    # --- callbacks of the class ---

    def hooked(self, **keys):
        path = self.path("log")
        worker = self.worker(worker={"worker_cls": "toys.Hooked", "worker_kwargs": dict(keys, path=path)})

        def log():
            with open(path) as file:
                return [json.loads(line) for line in file]

        return worker, log

    def test_the_class_of_the_settings_gets_its_callbacks(self):
        worker, log = self.hooked()
        worker.task("give", "int", uuid="h")
        done = worker.event("done")
        self.finish(worker)
        self.assertEqual(log(), [["on_start", None], ["pre_task", "h"], ["post_task", done], ["on_shutdown", None]])

    def test_idle_callbacks_come_after_the_timeout(self):
        worker, log = self.hooked(idle_timeout=0.05)
        end = time.monotonic() + LIMIT
        while ["on_idle", None] not in log()[1:] or len(log()) < 3:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
        worker.task("noop")
        worker.event("done")
        worker.signal(signal.SIGTERM)
        worker.event("shutdown")
        self.assertEqual(worker.wait(), 0)

    def test_an_error_before_a_task_is_logged_and_ignored(self):
        worker, _ = self.hooked(fail=["pre_task"])
        worker.task("give", "int")
        self.assertEqual(worker.event("done")["result"], 5)

    def test_an_error_at_the_start_ends_the_worker(self):
        section = {"worker_cls": "toys.Hooked", "worker_kwargs": {"path": self.path(), "fail": ["on_start"]}}
        worker = self.worker(worker=section, ready=False)
        self.assertIsNone(worker.next_line())
        self.assertNotEqual(worker.wait(), 0)
        self.assertIn(b"RuntimeError: on_start", worker.err)


class Standalone(Protocol, unittest.TestCase):
    kind = "standalone"

    def test_an_int_longer_than_pythons_limit_survives_both_ways(self):
        worker = self.worker()
        digits = "7" * 6000
        worker.write(b'{"task": "toys.echo", "uuid": "o", "args": [%s]}\n' % digits.encode())
        self.assertIn("[" + digits + "]", worker.next_line().decode())

    def test_errors_in_callbacks_never_end_it(self):
        worker, _ = self.hooked(fail=["pre_task", "post_task", "on_shutdown", "on_idle"], idle_timeout=0.01)
        worker.task("noop")
        worker.event("done")
        self.finish(worker)

    def test_the_default_class_of_dispatcherd_is_its_own(self):
        worker = self.worker(worker={"worker_cls": "dispatcherd.worker.task.TaskWorker", "worker_kwargs": {"idle_timeout": 0.01}})
        self.finish(worker)

    def test_it_runs_from_a_text(self):
        from harness import SHIMS, python_of

        with open(os.path.join(SHIMS, "dispatch_worker.py")) as file:
            source = file.read()
        worker = self.worker(command=[python_of("standalone"), "-c", source])
        worker.task("bound", uuid="t")  # which imports dispatch_worker
        self.assertEqual(worker.event("done")["result"], ["t", 0])
        self.finish(worker)


class Dispatcherd(Protocol, unittest.TestCase):
    kind = "dispatcherd"

    def test_an_int_longer_than_pythons_limit_is_an_error_of_its_task_alone(self):
        worker = self.worker()  # dispatcherd writes the arguments into a log line
        worker.write(b'{"task": "toys.echo", "uuid": "o", "args": [%s]}\n' % (b"7" * 6000))
        self.assertEqual(worker.event("done")["error"]["class"], "ValueError")
        self.finish(worker)

    def test_a_class_that_does_the_work_in_its_own_way_can_be_cancelled(self):
        worker, path = self.worker(worker={"worker_cls": "toys.OwnWay"}), self.path()
        worker.task("touch_and_sleep", path, uuid="o")
        self.await_file(path)
        done = worker.until("done", worker.cancel, "o")
        self.assertEqual((done["result"], done["mine"]), ("<cancel>", True))
        worker.task("boom")
        self.assertNotIn("error", worker.event("done"))
        self.finish(worker)

    def test_tasks_see_the_settings(self):
        worker = self.worker(worker={"worker_kwargs": {"idle_timeout": 3}})
        worker.task("settings_seen")
        self.assertEqual(worker.event("done")["result"]["worker"]["worker_kwargs"], {"idle_timeout": 3})


if __name__ == "__main__":
    unittest.main()
