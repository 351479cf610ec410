"""The notebook of ProfVLM runs from top to bottom with the tiny twin."""

import json
import pathlib
import sys

import jupytext
import nbclient
import pytest

from tgvlm_jax.evaluation import captioning

NOTEBOOK = pathlib.Path(__file__).resolve().parent.parent.parent / "notebooks" / "profvlm.py"


@pytest.mark.parametrize("java", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_profvlm_runs(tmp_path, monkeypatch, java):
    """METEOR, which takes a Java runtime, reads its tables for five seconds in each evaluation."""
    if java and (reason := captioning.missing()):
        pytest.skip(reason)
    if not java:
        monkeypatch.setenv("PATH", str(pathlib.Path(sys.executable).parent))
    monkeypatch.setenv("TGVLM_STEPS", "2")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = jupytext.read(NOTEBOOK)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=280, resources=resources).execute()

    folder = tmp_path / "runs" / "profvlm"
    for run, views in (("all2", ["ego", "exo1", "exo2"]), ("ego2", ["ego"])):
        figures = json.loads((folder / run / "eval" / "metrics.json").read_text())
        assert figures["views"] == views
        assert sum(figures["counts"].values()) == 4
        assert (folder / run / "eval" / "report.html").stat().st_size > 1000
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    said = "".join(one.text for one in outputs if one.output_type == "stream")
    assert "16 records about 16 takes, views ego, exo1, exo2" in said
    assert "60 videos, 180 clips in" in said
    assert "step 2/2  loss " in said
    assert "with all views" in said
    assert ("METEOR needs" in said) != java
    assert sum("image/png" in one.get("data", {}) for one in outputs) == 1
