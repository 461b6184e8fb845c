"""The tasks of the demo."""

import time

from dispatcherd.publish import task


@task(queue="test_channel")
def print_hello():
    print("hello world!!", flush=True)


@task(queue="test_channel")
def confirm_start():
    print("the service has started", flush=True)


@task(queue="test_channel")
def sleep_function(seconds=1):
    time.sleep(seconds)


@task(queue="test_channel", on_duplicate="discard")
def sleep_discard(seconds=1):
    """Not run beside one of the same arguments, nor after it."""
    time.sleep(seconds)
    print(f"slept {seconds} s", flush=True)


@task(queue="test_channel", bind=True)
def hello_by_id(dispatcher):
    """Is handed the service's end of it, for its own id and for commands."""
    print(f"hello from {dispatcher.uuid}", flush=True)
