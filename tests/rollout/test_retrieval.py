"""The retrieval game with scripted responses."""

import dataclasses

import pytest

from tgvlm_jax.rollout import retrieval
from tgvlm_jax.rollout.retrieval import Budget, Task
from tgvlm_jax.types import InputError

TASK = Task(pool=64, options=("A. yes", "B. no"), relevant=frozenset(range(8, 16)))
BUDGET = retrieval.BUDGETS[32]


def act(kind, content):
    return f"<think>hm</think><{kind}>{content}</{kind}>"


def parse(response, **changes):
    return retrieval.parse(response, dataclasses.replace(TASK, **changes))


@pytest.mark.parametrize(
    "response",
    ["", "A", "<answer>A</answer>", act("answer", "A") + " so", "so " + act("answer", "A"),
     act("retrive", "1,2"), act("ANSWER", "A"), "<think>hm</think>",
     act("retrieve", "1,2") + "<answer>A</answer>"],
)  # fmt: skip
def test_another_form_is_no_action(response):
    action = parse(response)
    assert (action.kind, action.valid, action.formatted) == (None, False, False)
    assert action.error == "format_error"
    assert action.message


@pytest.mark.parametrize("content", ["", "1", "1,2,3", "2,1", "-1,2", "1.0,2", "[1,2]", "a,b"])
def test_a_retrieval_is_two_numbers_in_order(content):
    action = parse(act("retrieve", content))
    assert action.error == "retrieve_format_error"
    assert not action.formatted
    assert action.message


def test_a_retrieval_must_lie_in_the_pool():
    assert parse(act("retrieve", " 0 , 63\n")).valid
    beyond = parse(act("retrieve", "60,64"))
    assert (beyond.valid, beyond.formatted, beyond.error) == (False, True, "retrieve_range_error")
    assert "0 to 63" in beyond.message


@pytest.mark.parametrize(
    ("kind", "content", "valid"),
    [
        ("multiple choice", " B\n", True),
        ("multiple choice", "b", True),  # valid, and scored as wrong
        ("multiple choice", "C", False),
        ("multiple choice", "B. no", False),
        ("numerical", "4.20", True),
        ("numerical", "four", False),
        ("free-form", "x" * 50, True),
        ("free-form", "x" * 51, False),
    ],
)
def test_a_valid_answer_depends_on_the_question(kind, content, valid):
    action = parse(act("answer", content), kind=kind)
    assert (action.kind, action.valid, action.formatted) == ("answer", valid, True)
    assert bool(action.message) != valid


def test_a_question_without_a_rule_is_said():
    with pytest.raises(InputError, match="no rule for 'OCR' answers"):
        parse(act("answer", "x"), kind="OCR")


def test_the_first_pair_of_tags_counts():
    assert parse(act("answer", "A") + act("answer", "B")).content == "A"
    mixed = parse(act("retrieve", "1,2") + act("answer", "B"))
    assert (mixed.kind, mixed.content) == ("answer", "B")


def test_an_episode():
    first = retrieval.begin(TASK, BUDGET)
    assert len(first.frames) == 16
    assert (first.frames[0], first.frames[-1]) == (0, 63)
    assert first.iou == pytest.approx(2 / 22)
    looked = retrieval.step(TASK, BUDGET, before=first, response=act("retrieve", "8,15"))
    assert looked.frames == tuple(range(8, 16))
    assert looked.iou == 1
    assert looked.seen == first.seen | set(range(8, 16))
    assert not looked.done
    wrong = retrieval.step(TASK, BUDGET, before=looked, response="what?")
    assert (wrong.number, wrong.frames, wrong.iou, wrong.done) == (2, (), None, False)
    last = retrieval.step(TASK, BUDGET, before=wrong, response=act("answer", "A"))
    assert (last.number, last.done, last.action.content) == (3, True, "A")
    with pytest.raises(InputError, match="over after turn 3"):
        retrieval.step(TASK, BUDGET, before=last, response=act("answer", "A"))


def test_a_retrieval_in_the_last_turn_is_shown_and_ends_it():
    budget = Budget(first=4, each=2, turns=1)
    first = retrieval.begin(TASK, budget)
    last = retrieval.step(TASK, budget, before=first, response=act("retrieve", "8,15"))
    assert last.frames == (8, 15)
    assert last.done


def test_no_turn_shows_more_than_its_budget():
    for frames, budget in retrieval.BUDGETS.items():
        shown = [len(retrieval.begin(TASK, budget).frames)]
        shown += [len(retrieval.interval(64, 0, 63, most=budget.each))] * (budget.turns - 1)
        assert sum(shown) <= frames
        assert shown[0] == frames // 2


def test_ranges_are_clamped_and_small_pools_repeat():
    assert retrieval.interval(10, -5, 3, most=8).tolist() == [0, 1, 2, 3]
    assert retrieval.interval(10, 7, 99, most=2).tolist() == [7, 9]
    with pytest.raises(InputError, match="no frame from -5 to -1"):
        retrieval.interval(10, -5, -1, most=8)
    assert retrieval.uniform(3, 5).tolist() == [0, 0, 1, 1, 2]


def test_without_annotation_there_is_no_overlap():
    task = dataclasses.replace(TASK, relevant=None)
    assert retrieval.begin(task, BUDGET).iou is None
    assert retrieval.frame_iou([], []) == 1
    assert retrieval.frame_iou([1, 1, 2], [2, 3]) == pytest.approx(1 / 3)
