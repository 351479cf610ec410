"""What this machine's accelerator makes of our models, beside transformers + torch.

    python benchmarks/accelerator.py                       # sizes that fit, all there is to measure
    python benchmarks/accelerator.py --systems qwen2.5-vl-7b --rounds 3
    python benchmarks/accelerator.py --size tiny --no-torch

Measured are, at published sizes with random weights: a training step (LoRA on all linear maps of
the language model, AdamW), a rollout of groups of answers and the update that follows it (GRPO),
prefill, decoding, and the vision tower; on one device, in bfloat16, on a CPU in float32. The most
that the device reaches in large products and copies is measured in the same run, and all else is
given as a share of it. Our side and torch's run in processes of their own and take turns, call by
call, each with its part of a GPU's memory. A TPU is ours alone, since torch does not see it.

Writes accelerator_DEVICE.json and .md into benchmarks/results/, after every case; a system that is
measured again takes the place of its earlier figures. Our side needs jax, flax, optax, jaxtyping,
tokenizers and Pillow, and the library need not be installed; torch's needs torch, transformers and
peft (pip install -e '.[parity]').
"""

import argparse
import contextlib
import json
import os
import platform
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerator_table

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
CASES = ("product", "copy", "tower", "prefill", "decode", "rollout", "sft", "update")
_PAPER = 40 * 2**30  # bytes; a device with so much memory takes the published sizes


class SideError(Exception):
    """A process ended, or took too long."""


class Side:
    """One of the two processes."""

    def __init__(self, script: str, *, python: str, environment: dict[str, str], limit: float):
        self.limit = limit
        self.process = subprocess.Popen(
            [python, str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """One request, answered.

        Raises:
            SideError: there was no answer; the process is gone then.
        """
        assert self.process.stdin is not None
        line = ""
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            line = self._lines.get(timeout=self.limit)
        except queue.Empty as error:
            self.close()
            raise SideError(f"no answer within {self.limit:.0f} s") from error
        except BrokenPipeError:
            pass
        if not line.startswith("@"):
            status = self.process.wait()
            self.close()
            raise SideError(f"the process ended with status {status}")
        return json.loads(line[1:])

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self._reader.join()


class Bench:
    """Both sides; one that dies over a case is started again for the next."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.share = 0.45 if options.torch else 0.9
        self.sides: dict[str, Side] = {}
        self.told = self._start_ours()
        self.peer: dict[str, Any] = {}  # what torch says of itself, if it takes part
        self.absent = "" if options.torch else "left out"
        if options.torch and self.told["platform"] == "tpu":
            self.absent = "does not see a TPU"
        if not self.absent:
            self._start_torch()

    def _start_ours(self) -> dict[str, Any]:
        path = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "XLA_PYTHON_CLIENT_MEM_FRACTION": str(self.share),  # of a GPU; set aside at once
        }
        if not self.options.cache:
            environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        return self._start("ours", "accelerator_ours.py", sys.executable, environment)

    def _start_torch(self) -> None:
        on_cpu = self.told["platform"] == "cpu"
        environment = {"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}
        python, device = self.options.torch_python, "cpu" if on_cpu else "cuda"
        try:
            self.peer = self._start(
                "torch", "accelerator_torch.py", python, environment, device=device
            )
        except SideError as error:
            self.peer = {"error": str(error)}
        if "error" in self.peer:
            self.absent = self.peer["error"]
            self._drop("torch", self.absent)

    def _start(
        self, side: str, script: str, python: str, environment: dict[str, str], **request: Any
    ) -> dict[str, Any]:
        limit = self.options.limit
        made = Side(script, python=python, environment=environment, limit=limit)
        self.sides[side] = made
        return made.ask("hello", **request)

    def _drop(self, side: str, reason: str) -> None:
        self.sides.pop(side).close()
        print(f"{side}: {reason}", flush=True)

    def close(self) -> None:
        """Ends both processes."""
        for side in self.sides.values():
            side.close()

    def measure(self, name: str, record: dict[str, Any], save: Callable[[], None]) -> None:
        """All cases of a system, written after each."""
        dtype = self.options.dtype or ("float32" if self.told["platform"] == "cpu" else "bfloat16")
        if "ours" not in self.sides:
            self._start_ours()
        about = self.sides["ours"].ask("begin", name=name, dtype=dtype)
        if "torch" in self.sides:
            self.sides["torch"].ask("begin", name=name, dtype=dtype, told=about)
        kept = ("lengths", "layers", "parameters", "flops", "bytes", "tower")
        section = {"facts": self._facts(dtype), **{key: about[key] for key in kept}, "cases": {}}
        record[name] = section
        for case in CASES:
            if self.options.cases and case not in (*self.options.cases, "product", "copy"):
                continue
            self._revive(name, dtype, about)
            section["cases"][case] = row = self._case(case)
            if "flops" in row["ours"]:
                section["flops"][case] = row["ours"]["flops"]
            section["facts"]["load"] = round(os.getloadavg()[0], 1)
            save()
            print(f"{name}: {accelerator_table.line(case, section)}", flush=True)

    def _revive(self, name: str, dtype: str, about: dict[str, Any]) -> None:
        """Starts again what an earlier case has ended."""
        if "ours" not in self.sides:
            self._start_ours()
            self.sides["ours"].ask("begin", name=name, dtype=dtype)
        if "torch" not in self.sides and not self.absent:
            self._start_torch()
            if "torch" in self.sides:
                self.sides["torch"].ask("begin", name=name, dtype=dtype, told=about)

    def _case(self, case: str) -> dict[str, Any]:
        """Prepared on both sides, then turn by turn."""
        row = {side: self._guard(side, "prepare", case) for side in list(self.sides)}
        for _ in range(self.options.rounds):
            for side, found in row.items():
                if "error" in found:
                    continue
                taken = self._guard(side, "seconds", case)
                if "error" in taken:
                    found["error"] = taken["error"]
                    found.pop("calls", None)
                else:
                    found.setdefault("calls", []).append(taken)
        for side in list(self.sides):
            self._guard(side, "end", case)
        return row

    def _guard(self, side: str, do: str, case: str) -> dict[str, Any]:
        try:
            return self.sides[side].ask(do, case=case)
        except SideError as error:
            self._drop(side, f"{case}: {error}")
            return {"error": str(error)}

    def _facts(self, dtype: str) -> dict[str, Any]:
        versions = {**self.told["versions"], **self.peer.get("versions", {})}
        return {
            "device": self.told["device"],
            "machine": _machine() if self.told["platform"] == "cpu" else "",
            "date": time.strftime("%Y-%m-%d"),
            "dtype": dtype,
            "rounds": self.options.rounds,
            "versions": versions,
            "cached": self.options.cache,
            "torch": self.absent,
        }


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{named.get('model name', platform.machine())}, {cores} cores"


def run(options: argparse.Namespace) -> Path:
    """Measures; the path of the table."""
    bench = Bench(options)
    try:
        told = bench.told
        whole = told["memory"] / (bench.share if told["platform"] == "gpu" else 1.0)
        size = options.size or ("paper" if whole >= _PAPER else "small")
        names = options.systems or told["sizes"][size]
        wrong = [name for name in names if name not in told["systems"]]
        if wrong:
            raise SystemExit(f"no system {wrong[0]!r}; there are {', '.join(told['systems'])}")
        slug = re.sub(r"[^a-z0-9]+", "_", told["device"].lower()).strip("_")
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"accelerator_{slug}.json"
        record = json.loads(path.read_text()) if path.exists() else {}

        def save() -> None:
            path.write_text(json.dumps(record, indent=1) + "\n")
            path.with_suffix(".md").write_text(accelerator_table.page(record))

        for name in names:
            bench.measure(name, record, save)
    finally:
        bench.close()
    print("\n" + accelerator_table.page({name: record[name] for name in names}))
    return path.with_suffix(".md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["tiny", "small", "paper"], help="default: what fits")
    parser.add_argument("--systems", nargs="+", help="these alone, whatever the size")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="these, and what stands for peak")
    parser.add_argument("--rounds", type=int, default=5, help="calls of each, after one to warm up")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of weights and products")
    parser.add_argument("--no-torch", dest="torch", action="store_false", help="our side alone")
    parser.add_argument("--torch-python", default=sys.executable, help="python with torch, peft")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds that a call may take")
    parser.add_argument("--cache", action="store_true", help="use JAX's compilation cache")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
