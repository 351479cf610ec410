"""tgvlm plan on the command line."""

import importlib.util
import json
import pathlib

import jax

CONFIG = pathlib.Path(__file__).resolve().parent.parent.parent / "configs" / "tiny.py"
SMALL = (
    "--config.optim.name=adamw --config.data.batch_size=4 --config.model.unroll=1 "
    "--frames 8 --question 16 --answer 16"
)


def test_without_the_compiler(fails, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = fails(f"plan --config {CONFIG} --topology v5e:4x4")
    assert said == "libtpu is not installed, which compiles for TPUs: pip install '.[plan]'"


def test_a_table_and_json(tgvlm, tmp_path, monkeypatch):
    monkeypatch.setenv("TGVLM_PLANS", str(tmp_path / "plans"))
    jax.devices()  # otherwise the topology says how many this process has
    file = tmp_path / "plan.json"
    words = f"plan --config {CONFIG} --topology cpu:2 --config.mesh.fsdp=2 {SMALL} --json {file}"
    result = tgvlm(*words.split())
    assert (result.status, result.err) == (0, "")
    said = result.out
    assert "compiling train of tiny for cpu:2" in said
    assert "tiny on cpu:2: 2 chips (cpu), fsdp=2" in said
    assert json.loads(file.read_text())["steps"][0]["found"]["cost"]["flops"] > 0
