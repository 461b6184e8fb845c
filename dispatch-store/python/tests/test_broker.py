"""The broker against a real PostgreSQL and the real dispatcherd. Run by the Python of scripts/python-env:

target/python/bin/python -m unittest discover -s <this directory>
"""

import asyncio
import glob
import json
import os
import sys
import unittest
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
ROOM = os.path.dirname(HERE)
ROOT = os.path.abspath(os.path.join(ROOM, "..", ".."))
sys.path.insert(0, ROOM)

URL = os.environ.get("DISPATCH_TEST_POSTGRES_URL")


def setUpModule():
    if not URL:
        if os.environ.get("CI") == "true":
            raise AssertionError("DISPATCH_TEST_POSTGRES_URL is not set")
        sys.stderr.write("skipped: dispatch_py.broker: DISPATCH_TEST_POSTGRES_URL is not set\n")
        raise unittest.SkipTest("no PostgreSQL")


def read(*path):
    with open(os.path.join(*path)) as file:
        return file.read()


class Durable(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        import psycopg

        cls.database = "dispatch_py_" + uuid.uuid4().hex
        cls.admin = psycopg.connect(URL, autocommit=True)
        cls.admin.execute('CREATE DATABASE "%s"' % cls.database)
        cls.url = URL.rpartition("/")[0] + "/" + cls.database
        with psycopg.connect(cls.url) as connection:
            for migration in sorted(glob.glob(os.path.join(ROOT, "dispatch-store", "src", "sql", "migrations", "*_postgres.sql"))):
                connection.execute(read(migration))

    @classmethod
    def tearDownClass(cls):
        cls.admin.execute('DROP DATABASE "%s" WITH (FORCE)' % cls.database)
        cls.admin.close()

    def setUp(self):
        import psycopg
        from dispatch_py.broker import Broker

        self.connection = psycopg.connect(self.url, autocommit=True)
        self.addCleanup(self.connection.close)
        self.connection.execute("TRUNCATE dispatch_item, dispatch_ready")
        self.broker = Broker(config={"conninfo": self.url}, channels=["tasks"], sync_connection=self.connection)

    def publish(self, **message):
        return self.broker.publish_message(message=json.dumps(dict({"task": "app.f"}, **message)))

    def rows(self):
        cursor = self.connection.execute(
            "SELECT i.queue, message_id, convert_from(payload, 'UTF8'), i.run_at - created_at, i.key, r.dedupe, i.priority"
            " FROM dispatch_item i JOIN dispatch_ready r USING (id) ORDER BY id"
        )
        return cursor.fetchall()

    def test_a_task_lies_in_the_queue_to_the_letter(self):
        text = '{"task": "app.f", "uuid": "u-1", "args": [NaN, 1e400, "\\ud800", "\\u0000", 123456789012345678901234567890], "timeout": 5}'

        self.assertEqual(self.broker.publish_message(channel="other", message=text), "other")

        self.assertEqual(self.rows(), [("other", "u-1", text, 0, None, None, 0)])

    def test_a_large_task_is_one_row(self):
        self.publish(args=["x" * 100000])
        self.assertEqual(len(self.rows()), 1)

    def test_a_task_without_a_uuid_gets_an_id(self):
        self.publish()
        uuid.UUID(self.rows()[0][1])

    def test_a_bare_name_is_a_task(self):
        self.broker.publish_message(message="app.f")
        self.broker.publish_message(message='no "JSON" é')
        self.assertEqual([json.loads(row[2]) for row in self.rows()], [{"task": "app.f"}, {"task": 'no "JSON" é'}])

    def test_a_delay_is_the_rows(self):
        self.publish(delay=1.5)
        self.publish(delay=-3)
        self.assertEqual([row[3] for row in self.rows()], [1_500_000, 0])

    def test_true_is_a_second_and_an_id_any_scalar(self):
        self.publish(uuid=5, delay=True, timeout=True)
        self.publish(uuid=True, delay=False)
        self.publish(uuid="", delay=None)
        rows = self.rows()
        self.assertEqual([row[1] for row in rows[:2]], ["5", "true"])
        self.assertEqual([row[3] for row in rows], [1_000_000, 0, 0])
        uuid.UUID(rows[2][1])

    def test_duplicates_are_told_by_task_args_and_kwargs(self):
        from dispatch_py.broker import identity

        same = [
            {"task": "f", "args": [1, {"a": 2, "b": 3}]},
            {"uuid": "x", "args": [1.0, {"b": 3, "a": 2}], "task": "f", "timeout": 9},
        ]
        self.assertEqual(identity(same[0]), identity(same[1]))
        for other in (
            {"task": "f"},
            {"task": "f", "args": [1, {"a": 2, "b": 4}]},
            dict(same[0], kwargs={}),
            dict(same[0], task="g"),
        ):
            self.assertNotEqual(identity(same[0]), identity(other), other)
        identity({"task": "f", "args": [float("nan"), "\ud800", 10**30, 1e300]})

    def test_the_policies_of_duplicates(self):
        for policy, kept in (("parallel", 5), ("serial", 5), ("queue_one", 1), ("discard", 1)):
            self.connection.execute("TRUNCATE dispatch_item, dispatch_ready")
            for _ in range(5):
                self.publish(on_duplicate=policy, args=[1])
            rows = self.rows()
            self.assertEqual(len(rows), kept, policy)
            self.assertEqual(rows[0][4] is not None, policy != "parallel", policy)
            count = self.connection.execute("SELECT count(*) FROM dispatch_item").fetchone()[0]
            self.assertEqual(count, kept, "a dropped message left a row behind")

    def test_while_one_is_at_work_one_more_may_wait_or_none(self):
        for policy, kept in (("queue_one", 2), ("discard", 1)):
            self.connection.execute("TRUNCATE dispatch_item, dispatch_ready")
            self.publish(on_duplicate=policy)
            self.connection.execute("DELETE FROM dispatch_ready")  # as a claim does
            for _ in range(3):
                self.publish(on_duplicate=policy)
            self.assertEqual(self.connection.execute("SELECT count(*) FROM dispatch_item").fetchone()[0], kept, policy)

    def test_two_at_once_leave_one(self):
        import psycopg
        from dispatch_py.broker import Broker

        message = json.dumps({"task": "app.f", "on_duplicate": "discard"})
        with psycopg.connect(self.url) as other:
            Broker(config={"conninfo": self.url}, channels=["tasks"], sync_connection=other).publish_message(message=message)
            self.connection.execute("SET lock_timeout = '50ms'")
            # The second waits until it knows what becomes of the first.
            with self.assertRaises(psycopg.errors.LockNotAvailable):
                self.broker.publish_message(message=message)
            other.commit()
            self.broker.publish_message(message=message)
        self.assertEqual(len(self.rows()), 1)

    def test_mistakes_are_the_publishers(self):
        for mistake in (
            {"on_duplicate": "once"},
            {"delay": "5"},
            {"delay": ""},
            {"delay": float("nan")},
            {"timeout": [1]},
            {"timeout": float("-inf")},
            {"uuid": [5]},
            {"uuid": {}},
        ):
            with self.assertRaises(ValueError):
                self.publish(**mistake)
        self.assertEqual(self.rows(), [])

    def test_it_is_the_callers_transaction(self):
        import psycopg
        from dispatch_py.broker import Broker

        with psycopg.connect(self.url) as own:
            broker = Broker(config={"conninfo": self.url}, channels=["tasks"], sync_connection=own)
            broker.publish_message(message='{"task": "app.gone"}')
            own.rollback()
            broker.publish_message(message='{"task": "app.kept"}')
            self.assertEqual(self.rows(), [])
            own.commit()
        self.assertEqual([row[2] for row in self.rows()], ['{"task": "app.kept"}'])

    def test_what_is_not_a_task_goes_by_notify(self):
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as listener:
            listener.execute("LISTEN tasks")
            sent = ['{"control": "alive", "reply_to": "r"}', '{"task": "f", "control": "alive"}']
            sent += ['{"self_check": true, "task": "f"}', "[1]", "17"]
            for message in sent:
                self.broker.publish_message(message=message)
            self.broker.publish_message(message='{"control": "cancel", "control_data": {"uuid": "%s"}}' % ("x" * 7949))
            self.broker.publish_message(message='{"task": "app.f"}')
            self.broker.publish_message(message='{"control": "last"}')
            heard = []
            for notification in listener.notifies(timeout=20):
                heard.append(notification.payload)
                if "last" in notification.payload:
                    break
        self.assertEqual(heard[: len(sent)], sent)
        # 8000 bytes: two chunks, where a limit of 8000 would have been refused by the server.
        self.assertEqual(sum("__dispatcherd_chunk__" in payload for payload in heard), 2, [len(payload) for payload in heard])
        self.assertEqual(len(self.rows()), 1)

    def test_a_pooler_in_transaction_mode_is_no_hindrance(self):
        import psycopg
        from dispatch_py.broker import Broker

        pooler = os.environ.get("DISPATCH_TEST_PGBOUNCER_URL")
        if not pooler:
            if os.environ.get("CI") == "true":
                self.fail("DISPATCH_TEST_PGBOUNCER_URL is not set")
            sys.stderr.write("skipped: dispatch_py.broker behind PgBouncer: DISPATCH_TEST_PGBOUNCER_URL is not set\n")
            self.skipTest("no PgBouncer")
        url = pooler.rpartition("/")[0] + "/" + self.database
        with psycopg.connect(url, autocommit=True) as one, psycopg.connect(url, autocommit=True) as other:
            brokers = [Broker(config={"conninfo": url}, channels=["tasks"], sync_connection=own) for own in (one, other)]
            for number in range(40):
                brokers[number % 2].publish_message(message='{"task": "app.f", "uuid": "%d"}' % number)
        self.assertEqual([row[1] for row in self.rows()], [str(number) for number in range(40)])

    def test_asynchronous_publishing_does_the_same(self):
        from dispatch_py.broker import Broker

        async def publish():
            broker = Broker(config={"conninfo": self.url}, channels=["tasks"])
            await broker.apublish_message(message='{"task": "app.f", "uuid": "async"}')
            await broker.apublish_message(message='{"control": "alive"}')
            await broker.aclose()

        asyncio.run(publish())
        self.assertEqual([row[1] for row in self.rows()], ["async"])

    def test_publishers_of_dispatcherd_need_only_the_name(self):
        from dispatcherd.config import temporary_settings
        from dispatcherd.publish import submit_task

        broker = {"config": {"conninfo": self.url}, "channels": ["app_tasks"], "schema": "public"}
        broker["sync_connection_factory"] = "dispatcherd.brokers.pg_notify.connection_saver"
        broker["async_connection_factory"] = "dispatcherd.brokers.pg_notify.async_connection_saver"
        from dispatcherd.brokers import pg_notify

        self.addCleanup(pg_notify.connection_saver(conninfo=self.url).close)
        with temporary_settings({"version": 2, "brokers": {"dispatch_py.broker": broker}}):
            message, queue = submit_task(publishable, args=(3,), kwargs={"a": "b"}, timeout=2, uuid="s-1")
        row = self.rows()[0]
        self.assertEqual((queue, row[0], row[1], json.loads(row[2])), ("app_tasks", "app_tasks", "s-1", dict(message, args=[3])))


def publishable(*args, **kwargs):
    pass


if __name__ == "__main__":
    unittest.main()
