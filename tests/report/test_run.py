"""The report of a run: the right figures, honest labels, and a file that stands alone."""

import dataclasses
import os

import numpy as np
import pytest

from tgvlm_jax.report import run
from tgvlm_jax.report.charts import Chart
from tgvlm_jax.types import InputError

HOSTILE = '<script src="https://example.org/x.js">"&\'</script>'
RECALL = {0.3: 0.9, 0.5: 0.8, 0.7: 0.4}


@pytest.fixture
def report(answer):
    """A small complete report; the examples' IoU runs from 0 to 1 in eight steps."""
    ends = np.linspace(2, 6, 9)
    examples = tuple(
        dataclasses.replace(answer, note=f"clip {i}", predicted=np.array([[2.0, end]]))
        for i, end in enumerate(ends)
    )
    return run.RunReport(
        title="When does it happen?",
        summary="A tiny model on two minutes of film.",
        scores=(
            run.Score(name="after", mean_iou=0.64, recall=RECALL, role="model", spread=0.02),
            run.Score(name="before", mean_iou=0.2, recall=RECALL, role="before"),
            run.Score(name="constant", mean_iou=0.32, recall=RECALL, role="blind"),
            run.Score(name="random", mean_iou=0.22, recall=RECALL, role="blind"),
        ),
        parts=(
            run.Score(name="hard kind", mean_iou=0.4, count=7),
            run.Score(name="easy kind", mean_iou=0.8, count=8),
        ),
        ious=tuple((ends - 2) / 4),
        metrics=[{"step": i, "loss": 1 / (1 + i), "wait": 0.01} for i in range(400)],
        charts=(Chart(key="loss", title="Loss"), Chart(key="absent", title="Absent")),
        examples=examples,
        config="frames = 48\nnote = '<b>'",
        versions={"jax": "0.10.2"},
        credit="(c) copyright 2008, Blender Foundation / www.bigbuckbunny.org, CC BY 3.0",
    )


@pytest.fixture
def write(tmp_path, parse):
    """Writes a report and reads it back, parsed."""

    def write_and_parse(report):
        path = tmp_path / "report.html"
        run.write_report(path, report)
        return parse(path.read_text(encoding="utf-8"))

    return write_and_parse


def test_the_figures_are_the_model_and_the_best_blind_answer(report, write):
    text = write(report).text
    assert "0.64 ± 0.02mean IoU on held-out clips" in text
    assert "0.32best blind answer: constant" in text
    assert "2.0 ×" in text
    assert text.index("easy kind") < text.index("hard kind")
    assert "R@0.3" in text
    assert "Loss" in text
    assert "Absent" not in text
    assert "jax 0.10.2" in text
    assert "www.bigbuckbunny.org" in text
    assert "note = '<b>'" in text


def test_examples_start_typical_and_name_the_extremes(report, write):
    text = write(report).text
    order = [text.index(f"clip {i}") for i in (4, 3, 2, 1)]
    assert order == sorted(order)
    assert "clip 4median of 9 IoU 0.50" in text.replace("of 9IoU", "of 9 IoU")
    assert "clip 8best of 9" in text
    assert "clip 0worst of 9" in text


def test_a_selection_without_the_extremes_does_not_claim_them(report, write):
    text = write(dataclasses.replace(report, examples=report.examples[2:7])).text
    assert "best shown" in text
    assert "worst shown" in text
    assert "median of 9" in text


def test_everything_optional_may_be_left_out(report, write):
    bare = run.RunReport(title="t", summary="s", scores=report.scores[:1])
    page = write(bare)
    assert page.images == []
    assert "Examples" not in page.text


def test_nothing_becomes_markup(report, write):
    hostile = dataclasses.replace(
        report,
        title=HOSTILE,
        summary=HOSTILE,
        scores=tuple(dataclasses.replace(score, name=HOSTILE) for score in report.scores),
        parts=(run.Score(name=HOSTILE, mean_iou=2.0),),
        charts=(Chart(key="loss", title=HOSTILE, unit=HOSTILE),),
        examples=tuple(
            dataclasses.replace(answer, question=HOSTILE, text=HOSTILE, note=HOSTILE)
            for answer in report.examples
        ),
        config=HOSTILE,
        versions={HOSTILE: HOSTILE},
        credit=HOSTILE,
    )
    assert write(hostile).text.count(HOSTILE) >= 15


def test_a_report_of_no_model_is_refused(report, tmp_path):
    with pytest.raises(InputError, match="one score of the model, got 0"):
        run.write_report(
            tmp_path / "report.html", dataclasses.replace(report, scores=report.scores[1:])
        )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("total", "count"), [(100, 12), (101, 7), (13, 12), (5, 12), (0, 3)])
def test_chosen_examples_are_a_fair_cross_section(total, count):
    ious = np.random.default_rng(total).uniform(size=total)
    chosen = run.choose_examples(ious, count)
    picked = ious[chosen]
    assert len(set(chosen.tolist())) == min(total, count)
    assert np.all(np.diff(picked) >= 0)
    if total > count:
        assert picked[0] == ious.min()
        assert picked[-1] == ious.max()
        assert np.sort(ious)[(total - 1) // 2] in picked
        assert abs(picked.mean() - ious.mean()) < 0.1
