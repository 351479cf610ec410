"""How the processes of a benchmark answer the one that started them; neither jax nor torch.

A request is a line of JSON on stdin, its "do" the name of a method; the answer is a line of JSON on
stdout that begins with `@`. Whatever else is printed goes to stderr.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any


def serve(make: Callable[[], Any]) -> None:
    """Makes an object and calls its methods, until there are no more requests."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    with contextlib.redirect_stdout(sys.stderr):
        made = make()
        for line in sys.stdin:
            request = json.loads(line)
            answer = getattr(made, request.pop("do"))(**request)
            print("@" + json.dumps(answer), file=answers)
