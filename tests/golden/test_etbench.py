"""E.T. Bench: answer parsers and the metrics of the twelve tasks."""

import json

import pytest

from tests.golden import et
from tgvlm_jax.evaluation import etbench_answers as answers
from tgvlm_jax.evaluation.etbench_data import CAPTIONING

pytestmark = pytest.mark.timeout(900)  # METEOR reads its tables first
VARIANTS = ("original", "strict_rvq")


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


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_read_from_every_answer(suite, variant):
    def read(sample):
        if sample.task in CAPTIONING:
            return et.events(answers.events(sample.answer))
        return et.spans(answers.spans(sample.answer))

    et.assert_same_spans(suite, variant, read=read)


def test_odd_answers(suite):
    delimiter = answers.DELIMITER
    for case in json.loads((suite / "parser_edge_cases.json").read_text()):
        text, original, new = case["text"], case["original"], case["new"]
        assert et.outcome(lambda t=text: et.spans(answers.spans(t))) == et.recorded(
            original["tvg_format"]
        )
        assert et.events(answers.events(text)) == et.restored(original["dvc_format"])
        number = original["vhd_first_number"]
        assert answers.point(text) == (None if number is None else float(number))

        def both(t):
            found = answers.grounded(t)
            return [et.spans(found.answer), et.spans(found.evidence)]

        def captioned(t):
            return et.events(answers.grounded_events(t), evidence=True)

        as_answer, as_evidence = f"1 - 2{delimiter}{text}", f"{text}{delimiter}1 - 2"
        assert et.outcome(both, as_answer) == et.recorded(new["tvg_format_as_answer"])
        assert et.outcome(both, as_evidence) == et.recorded(new["tvg_format_as_evidence"])
        recorded = et.recorded(new["dvc_format_as_evidence"])
        assert et.outcome(captioned, f"{as_evidence}, a caption") == recorded
        recorded = et.recorded(new["dvc_format_as_answer"])
        # Two values where three are unpacked: this is how the script's reader stops the script.
        recorded = "raises" if recorded == [None, None] else recorded
        assert et.outcome(captioned, as_answer) == recorded


def test_answers_that_stop_the_script(suite):
    for case in json.loads((suite / "crash_samples.json").read_text()):
        read = answers.events if case["sample"]["task"] in CAPTIONING else answers.spans
        with pytest.raises(answers.ScriptAborts):
            read(case["sample"]["a"])
