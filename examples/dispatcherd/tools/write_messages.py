"""Publishes a burst of tasks to the service of the demo, each in another of the ways there are."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)  # for test_methods, wherever this is started

from dispatcherd.config import setup  # noqa: E402
from dispatcherd.publish import submit_task  # noqa: E402


def main():
    file = os.environ.get("DISPATCHERD_CONFIG_FILE", os.path.join(HERE, os.pardir, "dispatcher.yml"))
    setup(file_path=file)
    from test_methods import hello_by_id, print_hello, sleep_discard, sleep_function

    print_hello.delay()
    print_hello.apply_async(args=[], kwargs={})
    submit_task(print_hello)
    for _ in range(10):
        sleep_discard.delay(3)
        sleep_function.delay(0.01)
    hello_by_id.apply_async(uuid="the-demos-last")
    print("published")


if __name__ == "__main__":
    main()
