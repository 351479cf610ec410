"""benchmarks/collectives.py: which rows a run of some settings leaves in the table."""

import importlib
import json
import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def collectives(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("collectives")


def row(setting, *, layers=28, versions="jax 1", sent=0.0):
    return {"setting": setting, "layers": layers, "versions": versions, "bytes": sent}


def settings(rows):
    return [one["setting"] for one in rows]


def test_settings_that_were_not_run_keep_their_rows(collectives):
    rows = [row("compiler", sent=1.0), row("step, sums", sent=2.0), row("of another day")]
    found = collectives.among(rows, row("step", sent=3.0))
    assert settings(found) == ["compiler", "step", "step, sums", "of another day"]
    again = collectives.among(found, row("compiler", sent=4.0))
    assert settings(again) == settings(found)
    assert again[0]["bytes"] == 4.0


@pytest.mark.parametrize("other", [{"layers": 2}, {"versions": "jax 2"}])
def test_rows_of_other_layers_or_versions_go(collectives, other):
    found = collectives.among([row("compiler", **other)], row("step"))
    assert settings(found) == ["step"]


def test_the_table_is_that_of_its_rows(collectives):
    kept = BENCHMARKS / "results" / "collectives"
    rows = json.loads(kept.with_suffix(".json").read_text())
    assert collectives.table(rows) == kept.with_suffix(".md").read_text()
    assert "| compiler | 40.42 |" in collectives.table(rows)
