"""The quickstart notebook runs from top to bottom, and its two forms say the same."""

import pathlib

import jupytext
import nbclient
import pytest

NOTEBOOKS = pathlib.Path(__file__).resolve().parent.parent.parent / "notebooks"
QUICKSTART = NOTEBOOKS / "quickstart.py"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_both_forms_say_the_same(path):
    script, notebook = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    told = [(cell.cell_type, cell.source) for cell in script.cells]
    assert told == [(cell.cell_type, cell.source) for cell in notebook.cells], (
        f"after a change: jupytext --sync notebooks/{path.name}"
    )
    for cell in notebook.cells:
        assert not cell.get("outputs"), "outputs are not committed: clear them"
        assert cell.get("execution_count") is None


def texts(notebook):
    """All that was printed."""
    return "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream"
    )


def test_quickstart_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TGVLM_STEPS", "2")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = jupytext.read(QUICKSTART)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=240, resources=resources).execute()

    folder = tmp_path / "runs" / "quickstart"
    for name in ("shards", "steps2", "eval/metrics.json", "eval/report.html", "answer.html"):
        assert (folder / name).exists()
    said = texts(notebook)
    assert "2386 frames at 4 a second" in said
    assert "step 2/2  loss " in said
    assert "best constant interval" in said
    kinds = [
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type in ("display_data", "execute_result")
        for kind in output.data
    ]
    assert kinds.count("image/png") == 2
    assert kinds.count("text/html") == 2
