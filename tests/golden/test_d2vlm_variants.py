"""E.T. Bench metrics on answers with evidence spans, in the four published variants."""

import json

import pytest

from tests.golden import et
from tgvlm_jax.evaluation import etbench
from tgvlm_jax.evaluation import etbench_answers as answers
from tgvlm_jax.evaluation.etbench_data import CAPTIONING, read_etbench

pytestmark = pytest.mark.timeout(900)  # METEOR reads its tables first
VARIANTS = ("original", "strict_rvq", "new", "looser")


@pytest.mark.parametrize("tasks", [et.OTHERS, CAPTIONING], ids=["others", "captioning"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_tables(suite, variant, tasks):
    et.assert_same_tables(suite, variant, tasks)


@pytest.mark.parametrize("variant", VARIANTS)
def test_drawn_fillers(suite, variant):
    et.assert_near_seeded_run(suite, variant)


@pytest.mark.parametrize("tasks", [et.OTHERS, CAPTIONING], ids=["others", "captioning"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_sample_alone(suite, variant, tasks):
    et.assert_same_samples(suite, variant, tasks)


@pytest.mark.parametrize("variant", ["new", "looser"])
def test_what_is_read_from_every_answer(suite, variant):
    def read(sample):
        if sample.task in CAPTIONING:
            return et.events(answers.grounded_events(sample.answer), evidence=True)
        if sample.task == "vhd":
            return [et.spans(answers.spans(p)) for p in sample.answer.split(answers.DELIMITER)]
        found = answers.grounded(sample.answer)
        return [et.spans(found.answer), et.spans(found.evidence)]

    et.assert_same_spans(suite, variant, read=read)


def test_answers_that_stop_the_script(suite, tmp_path):
    """They are failures here, and named."""
    cases = json.loads((suite / "crash_samples.json").read_text())
    for case in cases:
        path = tmp_path / "one.json"
        path.write_text(json.dumps([case["sample"]]))
        (sample,) = read_etbench(path).records
        for variant in case["raises"]:
            scores = etbench.score_group([sample], variant, scorers=et.scorers([sample.task]))
            assert scores.metrics["Failed"] == 1
            (line,) = scores.aborted
            assert case["raises"][variant].endswith(line.split(": ", 1)[1])
