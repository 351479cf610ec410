"""benchmarks/accelerator.py: a tiny run, how work is counted, what the table makes of trouble."""

import dataclasses
import importlib
import json
import pathlib
import subprocess
import sys

import jax
import pytest

from tgvlm_jax.models import flops, parameters
from tgvlm_jax.train import optim

TRAINING = ("sft", "update")
BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def ours(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("accelerator_ours")


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("accelerator_table")


def run(folder, *words):
    script = str(BENCHMARKS / "accelerator.py")
    command = [sys.executable, script, "--cache", "--rounds=2", f"--out={folder}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((folder / "accelerator_cpu.json").read_text())
    return record, (folder / "accelerator_cpu.md").read_text()


def test_a_tiny_run_measures_and_writes_both_files(tmp_path):
    record, page = run(tmp_path, "--size=tiny", "--cases=prefill", "--no-torch")
    section = record["tiny"]
    assert list(section["cases"]) == ["product", "copy", "prefill"]
    for case in section["cases"].values():
        assert len(case["ours"]["calls"]) == 2
        assert all(call["wall"] > 0 for call in case["ours"]["calls"])
        assert case["ours"]["memory"] > 0
    assert section["facts"]["device"] == "cpu"
    assert "| prefill 1 x 16 |" in page


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("name", ["tiny", "tiny-phi3", "tiny-qwen2.5", "tiny-qwen3"])
def test_every_kind_of_system_runs_on_both_sides(tmp_path, name):
    record, page = run(tmp_path, f"--systems={name}")
    cases = record[name]["cases"]
    assert set(cases) == {"product", "copy", "tower", "prefill", "decode", "rollout", *TRAINING}
    for case in cases.values():
        for side in ("ours", "torch"):
            assert "error" not in case[side]
            assert len(case[side]["calls"]) == 2
    assert "failed" not in page


def test_work_is_counted_as_by_the_run_itself(ours):
    """A training step: the count of the benchmark, by lengths, is that of `models/flops.py`."""
    systems = ours.systems
    system = systems.SYSTEMS["tiny"]
    shared = {"dtype": "float32", "layers": system.decoder.layers}
    config = systems.language_model(system, **shared, adapters=True)
    sizes = ours._sizes(system, "float32", system.decoder.layers)
    assert sizes["parameters"] == 203_256
    side = ours.Ours()
    side.config = config
    batch = ours.Batch(
        prompt=ours._prompt(3, 16, side), response=ours._response((3, 8), config.decoder.vocab_size)
    )
    trained = optim.trainable(ours.OPTIM, parameters.blueprint(config).shapes)
    counted = flops.per_step(config, batch, trained=trained)
    lengths = {"rows": 3, "prompt": 16, "answers": 1, "answer": 8}
    assert ours.flops(config=config, sizes=sizes, **lengths, trains=True) == counted


def test_the_towers_work_is_that_of_its_matrices(ours):
    """ViT-g on one frame: two FLOPs a parameter and token, and scores."""
    systems = ours.systems
    tower = systems.SYSTEMS["d2vlm"].tower
    lengths = dataclasses.replace(systems.SYSTEMS["tiny"].lengths, clips=1)
    assert systems.tower_tokens(tower, lengths) == 257
    abstract = ours.nnx.eval_shape(
        lambda: ours.EvaVit(tower, rngs=ours.nnx.Rngs(0), dtype=ours.jnp.dtype("float32"))
    )
    products = ours._tower_products(abstract, tower, 257)
    assert products == pytest.approx(2 * 257 * 985.9e6, rel=2e-3)  # what it has, less its tables
    assert systems.tower_scores(tower, lengths) == 4 * 39 * 257**2 * 1408


@pytest.mark.parametrize(
    ("memory", "layers"),
    [(0, 28), (63, 28), (36, 28), (20, 19), (8, 7)],
)
def test_layers_are_left_out_where_memory_is_short(ours, memory, layers):
    system = ours.systems.SYSTEMS["qwen2.5-vl-7b"]
    weights = 2 * ours._sizes(system, "bfloat16", 28)["parameters"]
    found = ours.systems.fitting_layers(system, weights=weights, memory=memory * 2**30)
    assert found == layers


def test_published_sizes_are_described_to_transformers(ours):
    systems = ours.systems
    for name in systems.SIZES["paper"]:
        system = systems.SYSTEMS[name]
        shared = {"dtype": "bfloat16", "layers": system.decoder.layers, "adapters": True}
        told = systems.hf_decoder(systems.language_model(system, **shared))
        assert told["num_hidden_layers"] == system.decoder.layers
        assert told["dtype"] == "bfloat16"
        assert systems.hf_tower(system.tower, system.lengths)["config"]


def section(**cases):
    return {
        "facts": {
            "device": "NVIDIA H200",
            "machine": "",
            "date": "2026-11-22",
            "dtype": "bfloat16",
            "rounds": 2,
            "versions": {"jax": "0.10.2"},
            "cached": False,
            "torch": "",
        },
        "lengths": {
            "product": 8192,
            "copied": 2048,
            "decode": (8, 1024, 64),
            "train": (4, 2048, 512),
        },
        "layers": [14, 28],
        "parameters": 7.6e9,
        "tower": {"kind": "qwen2_5_vl"},
        "flops": {"product": 8e15, "sft": 4e14},
        "bytes": {"copy": 4e9, "decode": 1e12},
        "cases": cases,
    }


def calls(*walls, **more):
    return {"calls": [{"wall": wall, **more} for wall in walls]}


def test_shares_are_of_the_best_that_either_side_reached(table):
    product = {"ours": calls(12.0, 10.0), "torch": calls(16.0, 20.0)}  # 800 TFLOP/s at best
    sft = {"ours": {**calls(1.0, 1.0), "compile": 31.5, "memory": 3 * 2**30}, "torch": calls(2.0)}
    page = table.page({"big": section(product=product, sft=sft)})
    assert "- peak of products: 800 TFLOP/s" in page
    assert "14 of its 28 layers, for want of memory" in page
    row = "| SFT step 4 x (2048 + 512) | 1000 (1000) | 2000 (2000) | **2.00** | 50 % | 25 % |"
    assert f"{row} 31.5 | 3.00 |  |" in page


def test_decoding_is_what_comes_after_the_first_token(table):
    copy = {"ours": calls(0.001)}  # 4 TB/s
    decode = {"ours": calls(1.5, first=1.0), "torch": calls(0.9, first=1.0)}
    page = table.page({"big": section(decode=decode) | {"cases": {"copy": copy, "decode": decode}}})
    assert "| 500 (500) | within noise |  | 50 % |" in page


def test_what_failed_is_told(table):
    sft = {
        "ours": {"error": "RESOURCE_EXHAUSTED: Out of memory while trying to allocate"},
        "torch": {"error": "the process ended with status -11"},
    }
    assert "| out of memory | failed |" in table.page({"big": section(sft=sft)})


def test_the_device_is_told_as_jax_has_it(ours):
    told = ours.Ours().hello()
    assert told["platform"] == "cpu"
    assert told["devices"] == jax.device_count()
    assert set(told["sizes"]["paper"]) <= set(told["systems"])


def side(accelerator, script, limit):
    return accelerator.Side(script, python=sys.executable, environment={}, limit=limit)


def test_a_process_that_ends_is_told_from_one_that_hangs(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    accelerator = importlib.import_module("accelerator")
    with pytest.raises(accelerator.SideError, match="the process ended with status 2"):
        side(accelerator, "no_such_script.py", 60.0).ask("hello")
    slow = side(accelerator, "accelerator_ours.py", 0.01)
    with pytest.raises(accelerator.SideError, match="no answer within 0 s"):
        slow.ask("hello")
    assert slow.process.returncode != 0
