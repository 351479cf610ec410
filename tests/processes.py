"""For what must not share a process with other tests."""

import multiprocessing
from collections.abc import Callable
from typing import Any


def run_alone(target: Callable[..., Any], *args: Any) -> None:
    """Calls a function of a test module in a fresh process, where it must not raise.

    JAX's profiler and libtpu, which tests of plans load, break each other where there is no TPU.
    """
    process = multiprocessing.get_context("spawn").Process(target=target, args=args)
    process.start()
    process.join()
    assert process.exitcode == 0
