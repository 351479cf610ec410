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
import json
import os
import platform
import queue
import re
import subprocess
import sys
import threading
import time
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
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """One request, answered.

        Raises:
            SideError: there was no answer; the process is gone then.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            line = self._lines.get(timeout=self.limit)
        except (BrokenPipeError, queue.Empty) as error:
            self.close()
            raise SideError(f"no answer within {self.limit:.0f} s") from error
        if not line.startswith("@"):
            raise SideError(f"the process ended with status {self.process.wait()}")
        return json.loads(line[1:])

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()


class Bench:
    """Both sides, and what was measured so far."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.share = 0.45 if options.torch else 0.9
        self.sides: dict[str, Side] = {}
        self.failed: dict[str, str] = {}
        self.told = self._start_ours()
        self.peer: dict[str, Any] = {}
        if options.torch and self.told["platform"] != "tpu":
            self._start_torch()
        elif options.torch:
            self.failed["torch"] = "torch does not see a TPU"

    def _start_ours(self) -> dict[str, Any]:
        path = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "XLA_PYTHON_CLIENT_MEM_FRACTION": str(self.share),  # of a GPU; set aside at once
        }
        if not self.options.cache:
            environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        self.sides["ours"] = self._side("accelerator_ours.py", sys.executable, environment)
        return self.sides["ours"].ask("hello")

    def _start_torch(self) -> None:
        on_cpu = self.told["platform"] == "cpu"
        environment = {"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}
        self.sides["torch"] = self._side(
            "accelerator_torch.py", self.options.torch_python, environment
        )
        try:
            self.peer = self._ask("torch", "hello", device="cpu" if on_cpu else "cuda")
        except SideError as error:
            self.peer = {"error": str(error)}
        if "error" in self.peer:
            self._drop("torch", self.peer["error"])

    def _side(self, script: str, python: str, environment: dict[str, str]) -> Side:
        limit = self.options.limit
        return Side(script, python=python, environment=environment, limit=limit)

    def _ask(self, side: str, do: str, **request: Any) -> dict[str, Any]:
        return self.sides[side].ask(do, **request)

    def _drop(self, side: str, reason: str) -> None:
        self.sides.pop(side).close()
        self.failed[side] = reason
        print(f"{side}: {reason}", flush=True)

    def close(self) -> None:
        """Ends both processes."""
        for side in self.sides.values():
            side.close()

    def measure(self, name: str, record: dict[str, Any], save: Any) -> None:
        """All cases of a system, written after each."""
        dtype = self.options.dtype or ("float32" if self.told["platform"] == "cpu" else "bfloat16")
        if "ours" not in self.sides:  # it died over an earlier system
            self._start_ours()
        if "torch" in self.failed and self.peer and "error" not in self.peer:
            del self.failed["torch"]
            self._start_torch()
        about = self._ask("ours", "begin", name=name, dtype=dtype)
        if "torch" in self.sides:
            self._ask("torch", "begin", name=name, dtype=dtype, told=about)
        kept = ("lengths", "layers", "parameters", "flops", "bytes", "tower")
        section = {"facts": self._facts(dtype), **{key: about[key] for key in kept}, "cases": {}}
        record[name] = section
        for case in CASES:
            if self.options.cases and case not in (*self.options.cases, "product", "copy"):
                continue
            section["cases"][case] = row = self._case(case)
            if "flops" in row.get("ours", {}):
                section["flops"][case] = row["ours"]["flops"]
            section["facts"]["load"] = round(os.getloadavg()[0], 1)
            save()
            print(f"{name}: {accelerator_table.line(case, section)}", flush=True)

    def _case(self, case: str) -> dict[str, Any]:
        """Prepared on both sides, then turn by turn."""
        row: dict[str, Any] = {}
        for side in list(self.sides):
            row[side] = self._guard(side, "prepare", case)
        for _ in range(self.options.rounds):
            for side, found in row.items():
                if "error" in found:
                    continue
                taken = self._guard(side, "seconds", case)
                if "error" in taken:
                    found["error"] = taken["error"]
                else:
                    found.setdefault("calls", []).append(taken)
        for side in list(self.sides):
            self._guard(side, "end", case)
        return row

    def _guard(self, side: str, do: str, case: str) -> dict[str, Any]:
        if side not in self.sides:
            return {"error": self.failed[side]}
        try:
            return self._ask(side, do, case=case)
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
            "torch": self.failed.get("torch", ""),
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
