"""A broker for dispatcherd that puts tasks into dispatch's durable queue instead of sending them by NOTIFY.

In dispatcher.yml, with the keys of `pg_notify` beside it:

    brokers:
      dispatch_py.broker:
        config: {conninfo: "dbname=app"}
        sync_connection_factory: dispatcherd.brokers.pg_notify.connection_saver
        channels: [app_tasks]

The queue is the channel. Publishers need no other change: a task is there when its transaction commits, and was never there when it
rolls back. For that the transaction must be on the broker's connection: let `sync_connection_factory` return the program's own.
What is not a task (control commands, their replies, self-checks) goes by NOTIFY as before.

One key more: `schema`, where the function dispatch_enqueue lies; without it the connection's search path says.
"""

import hashlib
import json
from typing import Any, Dict, Optional

import psycopg
from dispatcherd.brokers import pg_notify
from psycopg import sql

# PostgreSQL takes up to 7999 bytes in a notification; pg_notify's own limit is one too many.
NOTIFY_LIMIT = 7999
DUPLICATES = ("parallel", "discard", "serial", "queue_one")


class Broker(pg_notify.Broker):
    """`dispatcherd.brokers.pg_notify.Broker` whose tasks outlive everybody."""

    def __init__(self, *args: Any, schema: Optional[str] = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_message_bytes = NOTIFY_LIMIT
        function = sql.Identifier(schema, "dispatch_enqueue") if schema else sql.Identifier("dispatch_enqueue")
        self.enqueue_query = (
            sql.SQL(
                "SELECT {}(queue => %(queue)s, payload => %(payload)s, id => %(id)s, identity => %(identity)s,"
                " on_duplicate => %(on_duplicate)s, delay => %(delay)s)"
            )
            .format(function)
            .as_string(None)
        )

    def publish_message(self, channel: Optional[str] = None, message: str = "") -> str:
        options = enqueue_options(message)
        if options is None:
            return super().publish_message(channel=channel, message=message)
        queue = self.get_publish_channel(channel)
        connection = self.get_connection()
        with connection.cursor() as cursor:
            cursor.execute(self.enqueue_query, dict(options, queue=queue), **_unprepared(connection))
        return queue

    async def apublish_message(self, channel: Optional[str] = None, origin: Any = "", message: str = "") -> None:
        options = enqueue_options(message)
        if options is None:
            await super().apublish_message(channel=channel, origin=origin, message=message)
            return
        queue = self.get_publish_channel(channel)
        connection = await self.aget_connection()
        async with connection.cursor() as cursor:
            await cursor.execute(self.enqueue_query, dict(options, queue=queue), **_unprepared(connection))


def _unprepared(connection: Any) -> Dict[str, bool]:
    """psycopg prepares what comes often, which a pooler in transaction mode does not stand. A framework's connection has its own way."""
    return {"prepare": False} if isinstance(connection, (psycopg.Connection, psycopg.AsyncConnection)) else {}


def enqueue_options(text: str) -> Optional[Dict[str, Any]]:
    """What dispatch_enqueue is called with for that message; None for one that is not a task.

    `timeout`, `bind` and all the rest stay in the payload, which is the message to the letter (jsonb would refuse what JSON as
    Python writes it can hold), or a task of that name where it is no JSON.
    """
    try:
        message = json.loads(text)
    except ValueError:
        # A bare name, as a listener takes it; who reads the queue takes tasks alone.
        message = {"task": text}
        text = json.dumps(message)
    if (
        not isinstance(message, dict)
        or not isinstance(message.get("task"), str)
        or "control" in message
        or message.get("self_check")
    ):
        return None
    on_duplicate = message.get("on_duplicate") or "parallel"
    if on_duplicate not in DUPLICATES:
        raise ValueError("on_duplicate of task %s is %r; there are: %s" % (message["task"], on_duplicate, ", ".join(DUPLICATES)))
    # Refused here, where the program is that said so: in a listener it would come too late.
    for name in ("delay", "timeout"):
        value = message.get(name)
        if value is not None and not (isinstance(value, (int, float)) and value not in (float("inf"), float("-inf")) and value == value):
            raise ValueError("%s of task %s is %r, not a number of seconds" % (name, message["task"], value))
    uuid = message.get("uuid")
    if isinstance(uuid, (dict, list)):
        raise ValueError("uuid of task %s is %r, not a text or a number" % (message["task"], uuid))
    if uuid is not None and not isinstance(uuid, str):
        uuid = json.dumps(uuid)
    return {
        "payload": text,
        "id": uuid or None,
        "identity": None if on_duplicate == "parallel" else identity(message),
        "on_duplicate": on_duplicate,
        "delay": float(max(message.get("delay") or 0, 0)),
    }


def identity(message: Dict[str, Any]) -> str:
    """What makes two messages duplicates: task, args and kwargs; an absent one equals only an absent one.

    Hexadecimal SHA-256 of the object of those three that are present, in JSON with sorted keys, no spaces, ASCII alone, and whole
    floats up to 2^53 as ints, since 1 and 1.0 are equal.
    """
    parts = {name: _plain(message[name]) for name in ("task", "args", "kwargs") if name in message}
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
