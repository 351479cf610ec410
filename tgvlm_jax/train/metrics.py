"""Metrics: one JSON line a step, a progress bar on a terminal, plain lines elsewhere.

Losses arrive as device arrays and are fetched a few steps late, so that logging never makes the
host wait for the device. Only here are sums divided by their weights.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import numpy as np
from tqdm import tqdm

from tgvlm_jax import files

_COMPILED = "/jax/core/compile/backend_compile_duration"


class CompileCounter:
    """Counts programs that XLA compiles (or fetches from the cache) in this process.

    Attributes:
        count: of them. seconds: that this took, together.
    """

    def __init__(self):
        self.count, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED:
            self.count += 1
            self.seconds += duration_secs


class MetricsWriter:
    """Appends to `metrics.jsonl`; on resume, lines of steps that will be run again are dropped."""

    def __init__(self, path: Path, *, resume_step: int, total_steps: int, writes: bool = True):
        self.path, self.writes, self.total = path, writes, total_steps
        self._start, self._first = time.monotonic(), resume_step
        self._bar = None
        if not writes:
            return
        rewind(path, step=resume_step)
        with files.disk_errors(path):
            self._file = path.open("a")
        if sys.stderr.isatty():
            self._bar = tqdm(total=total_steps, initial=resume_step, unit="step", leave=False)

    def write(self, records: list[dict[str, Any]]) -> None:
        """Appends records and shows the last."""
        if not self.writes or not records:
            return
        with files.disk_errors(self.path):
            self._file.write("".join(json.dumps(record) + "\n" for record in records))
            self._file.flush()
        last = records[-1]
        text = "  ".join(f"{name} {last[name]:.3g}" for name in _SHOWN if name in last)
        if self._bar is not None:
            self._bar.update(last["step"] - self._bar.n)
            self._bar.set_postfix_str(text)
            return
        done = last["step"] - self._first
        left = (time.monotonic() - self._start) / max(done, 1) * (self.total - last["step"])
        print(f"step {last['step']}/{self.total}  {text}  eta {left:.0f}s", flush=True)

    def tell(self, text: str) -> None:
        """Says something beside the figures."""
        if self._bar is not None:
            self._bar.write(text)
        elif self.writes:
            print(text, flush=True)

    def close(self) -> None:
        """Closes the file and clears the bar."""
        if self._bar is not None:
            self._bar.close()
        if self.writes:
            with files.disk_errors(self.path):
                self._file.close()


_SHOWN = (
    "loss",
    "language",
    "grounding",
    "consistency",
    "reward",
    "reward_spread",
    "kl",
    "answer_tokens",
    "step_time",
    "input_wait",
    "frames_per_second",
    "mfu",
)


def rewind(path: Path, *, step: int) -> None:
    """Drops from a file of JSON lines those of steps that will be run again."""
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    files.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records that a run logs as JSON lines; a last line that was cut off is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def divide(metrics: dict[str, Any], coefficients: dict[str, float]) -> dict[str, float]:
    """Loss terms from their sums and weights, and the total loss they add up to."""
    host = {name: float(np.asarray(value)) for name, value in metrics.items()}
    terms = {name: host[f"{name}.sum"] / max(host[f"{name}.weight"], 1.0) for name in coefficients}
    loss = sum(coefficients[name] * value for name, value in terms.items())
    rest = {name: value for name, value in host.items() if "." not in name}
    return {"loss": loss, **terms, **rest}
