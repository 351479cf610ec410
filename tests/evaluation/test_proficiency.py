"""Levels and commentaries of generated answers: what is counted, and how."""

import numpy as np
import pytest

from tgvlm_jax.evaluation import egoexo4d, proficiency
from tgvlm_jax.schema import PROFICIENCY
from tgvlm_jax.types import InputError


def test_levels_are_those_of_the_challenge():
    assert egoexo4d.LABELS == PROFICIENCY


@pytest.mark.parametrize(
    ("text", "level", "commentary"),
    [
        ("Proficiency: Late Expert\nAnalysis: Calm hands.", "Late Expert", "Calm hands."),
        ("Analysis: A novice would fall.\nProficiency: Early Expert", "Early Expert",
         "A novice would fall."),
        ("Analysis: Good.\nProficiency: none of these", None, "Good."),
        ("proficiency: INTERMEDIATE EXPERT", "Intermediate Expert", ""),
        ("He is a late expert.", "Late Expert", "He is a late expert."),
        ("", None, ""),
    ],
)  # fmt: skip
def test_an_answer_is_read_whichever_part_comes_first(text, level, commentary):
    found = proficiency.read(text, PROFICIENCY)
    assert (found.level, found.commentary) == (level, commentary)


def test_figures_by_hand():
    truths = [
        "Proficiency: Novice\nAnalysis: the ball is lost",
        "Proficiency: Novice",
        "Proficiency: Late Expert\nAnalysis: a clean turn",
        "Proficiency: Early Expert",
    ]
    said = [
        "Proficiency: Novice\nAnalysis: the ball is lost",
        "Proficiency: Late Expert\nAnalysis: fine",
        "nothing",
        "Proficiency: Early Expert",
    ]
    scenarios = ["Soccer", "Dance", "Dance", "Soccer"]
    found = proficiency.score(said, truths, scenarios, levels=PROFICIENCY)
    assert found.accuracy == 0.5
    assert found.by_scenario == {"Dance": 0.0, "Soccer": 1.0}
    assert (found.counts, found.majority) == ({"Dance": 2, "Soccer": 2}, 0.5)
    wanted = np.zeros((4, 5), int)
    wanted[0, 0] = wanted[0, 3] = wanted[3, 4] = wanted[1, 1] = 1
    np.testing.assert_array_equal(found.confusion, wanted)
    assert (found.labelled, found.commented, found.references) == (0.75, 0.75, 2)
    (rouge,) = found.texts
    assert (rouge.name, rouge.score, rouge.shuffled) == ("ROUGE-L", 0.5, 0.0)
    accuracy, confusion, texts = found.tables()
    assert ("all", 4, 0.5) in accuracy.rows
    assert confusion.rows[0] == ("Novice", 1, 0, 0, 1, 0)
    assert texts.columns[1] == "2 commentaries"
    assert found.to_json()["texts"]["ROUGE-L"]["score"] == 0.5


def test_nothing_to_score_is_refused():
    with pytest.raises(InputError, match="as many answers as truths"):
        proficiency.score(["a"], [], [], levels=PROFICIENCY)
