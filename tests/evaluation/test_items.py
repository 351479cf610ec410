"""Marks, averages and blind answers of questions with letters and numbers."""

import pytest

from tgvlm_jax.evaluation.items import Item, Scoring, score_items, with_constants
from tgvlm_jax.types import InputError


def item(name, answer="A", kind="choice", constants=("A", "B"), **groups):
    groups = {
        field: group if isinstance(group, tuple) else (group,) for field, group in groups.items()
    }
    return Item(
        name=name, video="v.mp4", prompt="?", question="?", answer=answer, kind=kind,
        groups=groups, constants=constants,
    )  # fmt: skip


def same(one, text):
    return None if text == "?" else float(text == one.answer)


ITEMS = [
    item("0", "A", part="x", level="easy"),
    item("1", "B", part="x", level="easy"),
    item("2", "B", part="x", level="hard"),
    item("3", "B", part="y", level="only"),
]


def test_overall_is_over_questions_or_over_groups():
    texts = ["A", "A", "B", "A"]
    assert score_items("T", ITEMS, texts, scoring=Scoring(rule=same)).overall == 50
    by_part = score_items("T", ITEMS, texts, scoring=Scoring(rule=same, over=("part",)))
    assert by_part.overall == pytest.approx(100 * (2 / 3 + 0) / 2)
    nested = score_items("T", ITEMS, texts, scoring=Scoring(rule=same, over=("part", "level")))
    assert nested.overall == 100 * ((0.5 + 1) / 2 + 0) / 2
    assert "(mean over part, then level)" in nested.summary()


def test_blind_answers_are_averaged_like_the_score():
    texts = ["A"] * 4
    assert score_items("T", ITEMS, texts, scoring=Scoring(rule=same)).blind == 75
    found = score_items("T", ITEMS, texts, scoring=Scoring(rule=same, over=("part",)))
    assert found.blind == pytest.approx(100 * (2 / 3 + 1) / 2)
    table = found.tables[0]
    assert table.columns == ("part", "score", "best constant", "chance", "answers")
    assert table.rows == (("x", pytest.approx(100 / 3), pytest.approx(200 / 3), 50.0, 3),
                          ("y", 0.0, 100.0, 50.0, 1))  # fmt: skip


def test_the_form_is_that_of_the_rule():
    rule = Scoring(rule=lambda one, text: float(text == f"<{one.answer}>"), form="<{}>")
    assert score_items("T", ITEMS, ["B"] * 4, scoring=rule).blind == 75


def test_what_is_not_counted_is_in_no_average():
    found = score_items("T", ITEMS, ["A", "?", "?", "A"], scoring=Scoring(rule=same))
    assert (found.overall, found.left_out) == (50, 2)
    assert [row[-1] for row in found.tables[0].rows] == [1, 1]
    assert found.to_json()["tables"]["T by part"][0]["score"] == 100


def test_a_question_may_be_in_several_groups():
    items = [item("0", types=("r", "s")), item("1", types=("s",))]
    (table,) = score_items("T", items, ["A", "B"], scoring=Scoring(rule=same)).tables
    assert [(row[0], row[1], row[-1]) for row in table.rows] == [("r", 100, 1), ("s", 50, 2)]


def test_blind_numbers_are_true_ones_of_the_same_group():
    items = [item(str(n), str(n), "number", (), type="a" if n < 5 else "b") for n in range(8)]
    items = with_constants([*items, item("8", type="a")], "type")
    assert set(items[0].constants) == set("01234")
    assert set(items[7].constants) == set("567")
    assert items[8].constants == ("A", "B")
    assert items[0].chance is None
    found = score_items("T", items[:8], [""] * 8, scoring=Scoring(rule=same, over=("type",)))
    assert found.blind == pytest.approx(100 * (1 / 5 + 1 / 3) / 2)


def test_nothing_to_average():
    with pytest.raises(InputError, match="one answer a question is needed: 1 for 4"):
        score_items("T", ITEMS, ["A"], scoring=Scoring(rule=same))
    with pytest.raises(InputError, match="T: none of 4 answers is counted"):
        score_items("T", ITEMS, ["?"] * 4, scoring=Scoring(rule=same))
