"""The worker of docs/workers.md runs as it stands there."""

import os
import re
import shutil
import signal
import sys
import unittest

from harness import ROOT, WorkerProcess


class ProtocolPage(unittest.TestCase):
    def worker(self):
        perl = shutil.which("perl")
        if perl is None:
            if os.environ.get("CI") == "true":
                self.fail("no perl")
            sys.stderr.write("skipped: the worker of docs/workers.md: no perl\n")
            self.skipTest("no perl")
        with open(os.path.join(ROOT, "docs", "workers.md")) as page:
            source = re.search(r"```perl\n(.*?)```", page.read(), re.S).group(1)
        worker = WorkerProcess(None, worker_id=4, command=[perl, "-e", source])
        self.addCleanup(worker.end)
        self.assertEqual(worker.ready, {"worker": 4, "event": "ready"})
        return worker

    def test_it_works(self):
        worker = self.worker()
        worker.frame({"task": "sum", "uuid": "a", "args": [1, 2.5]})
        done = worker.event("done")
        self.assertEqual((done["worker"], done["uuid"], done["result"]), (4, "a", 3.5))

        worker.frame({"task": "fail", "uuid": "b", "args": ["why"]})
        done = worker.event("done")
        self.assertEqual((done["uuid"], done["result"]), ("b", None))
        self.assertIn("why", done["error"]["message"])

        worker.frame({"task": "no such", "uuid": "c"})
        self.assertIn("no such", worker.event("done")["error"]["message"])
        worker.stop()
        worker.event("shutdown")
        self.assertEqual(worker.wait(), 0, worker.err)

    def test_it_can_be_cancelled(self):
        worker = self.worker()
        worker.frame({"task": "wait", "uuid": "a", "args": [20]})
        done = worker.until("done", worker.plain)
        self.assertEqual((done["result"], done.get("error")), ("<cancel>", None))

    def test_it_ends_on_sigterm_and_with_its_pipe(self):
        worker = self.worker()
        worker.signal(signal.SIGTERM)
        worker.event("shutdown")
        self.assertEqual(worker.wait(), 0, worker.err)
        worker = self.worker()
        worker.close_tasks()
        worker.event("shutdown")
        self.assertEqual(worker.wait(), 0, worker.err)


if __name__ == "__main__":
    unittest.main()
