"""What is asked for in every turn is what the parser accepts."""

import re

import pytest

from tgvlm_jax.rollout import retrieval_prompts
from tgvlm_jax.rollout.retrieval import BUDGETS, Budget, Task, begin, parse, step
from tgvlm_jax.rollout.retrieval_prompts import Asked, observation

OPTIONS = ("A. one", "B. two")
TASK = Task(pool=64, options=OPTIONS, relevant=frozenset({20, 21}))
ASKED = Asked(question="Which?", task=TASK)


def text(parts):
    return "".join(part for part in parts if isinstance(part, str))


def frames(parts):
    return [part for part in parts if isinstance(part, int)]


@pytest.mark.parametrize("total", BUDGETS)
def test_frames_of_a_budget(total):
    budget, shown = BUDGETS[total], 0
    turn = begin(TASK, budget)
    for number in range(budget.turns):
        parts = observation(ASKED, turn, budget, style="full")
        assert tuple(frames(parts)) == turn.frames
        assert text(parts).startswith(f"Turn {number + 1}. ")
        assert "Question: Which?\nA. one\nB. two\n" in text(parts)
        shown += len(turn.frames)
        if not turn.done:
            said = "<think>x</think><retrieve>0,63</retrieve>"
            turn = step(TASK, budget, before=turn, response=said)
    assert shown == total


def test_every_frame_follows_its_number():
    parts = observation(ASKED, begin(TASK, Budget(first=4)), Budget(first=4), style="full")
    for place, part in enumerate(parts):
        if isinstance(part, int):
            assert parts[place - 1] == f"frame_idx:{part}, "


def test_the_forms_that_are_offered_are_those_that_are_read():
    budget = Budget()
    turn = begin(TASK, budget)
    said = text(observation(ASKED, turn, budget, style="full"))
    forms = re.findall(r"<think>.*?</think><\w+>.*?</\w+>", said)
    filled = [form.replace("your answer", "A").replace("start,end", "0,63") for form in forms]
    kinds = [parse(form, TASK).kind for form in filled]
    assert kinds == ["answer", "retrieve"]
    assert all(parse(form, TASK).valid for form in filled)
    assert "from 0 to 63" in said  # the last one is a frame, too


def test_the_last_turn_offers_no_other_look():
    budget = Budget(turns=2)
    turn = begin(TASK, budget)
    turn = step(TASK, budget, before=turn, response="<think></think><retrieve>3,9</retrieve>")
    said = text(observation(ASKED, turn, budget, style="full"))
    assert "last turn" in said
    assert "retrieve" not in said


def test_what_was_wrong_is_told_without_frames():
    budget = Budget()
    turn = step(TASK, budget, before=begin(TASK, budget), response="<retrieve>3</retrieve>")
    parts = observation(ASKED, turn, budget, style="full")
    assert frames(parts) == []
    assert text(parts).startswith(turn.action.message)
    assert "Which?" in text(parts)
    short = observation(ASKED, turn, budget, style="short")
    assert short == ("format_error",)


def test_scripts_are_valid():
    lines = retrieval_prompts.script(TASK, look=(3, 9), answer="B")
    assert [parse(line, TASK).kind for line in lines] == ["retrieve", "answer"]
    assert all(parse(line, TASK).valid for line in lines)
