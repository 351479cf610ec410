"""The notebook of ProfVLM runs from top to bottom with the tiny twin."""

import json
import pathlib

import jupytext
import nbclient

NOTEBOOK = pathlib.Path(__file__).resolve().parent.parent.parent / "notebooks" / "profvlm.py"


def test_profvlm_runs(tmp_path, monkeypatch):
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
    assert sum("image/png" in one.get("data", {}) for one in outputs) == 1
