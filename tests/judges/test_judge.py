"""What is asked of a judge, how its verdict is read, and the judge that asks nobody."""

import pytest

from tgvlm_jax.judges import judge
from tgvlm_jax.judges.judge import Case, ModelJudge, Reply, Verdict

CASE = Case(question="What colour?", answer="blue", observation="The car is blue.")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<judgement>Yes</judgement>", True),
        ("<judgement> no\n</judgement>", False),
        ("<judgement>No</judgement> Wait. <JUDGEMENT>YES</JUDGEMENT>", True),
        ("Yes", None),
        ("<judgement>Yes or No</judgement>", None),
        ("<judgement>Yes", None),
        ("", None),
    ],
)
def test_the_last_verdict_counts(text, verdict):
    assert judge.read_verdict(text) is verdict


def test_the_prompt_has_all_parts_and_no_pixels():
    asked = judge.prompt(CASE)
    for part in ("What colour?", "blue", "The car is blue.", "a video", "</judgement>"):
        assert part in asked
    image = judge.prompt(Case(question="q", answer="a", observation="o", data_type="image"))
    assert "an image" in image
    assert "video" not in image


def test_a_reply_without_a_verdict_is_asked_for_once_more():
    replies = {
        "x": ["hm", "<judgement>Yes</judgement>"],
        "y": ["hm", "hm", "<judgement>Yes</judgement>"],
        "z": ["<judgement>No</judgement>"],
    }
    asked = []

    def complete(prompts):
        found = []
        for prompt in prompts:
            (name,) = [name for name in replies if f"Question: {name}\n" in prompt]
            asked.append(name)
            found.append(Reply(text=replies[name].pop(0)))
        return found

    cases = [Case(question=name, answer="a", observation="o") for name in "xyz"]
    verdicts = ModelJudge(complete)(cases)
    assert [one.sufficient for one in verdicts] == [True, False, False]
    assert [one.failure for one in verdicts] == ["", "the reply has no verdict", ""]
    assert asked == ["x", "y", "z", "x", "y"]


def test_a_failure_is_not_asked_again():
    calls = []

    def complete(prompts):
        calls.append(len(prompts))
        return [Reply(text="", failure="status 500") for _ in prompts]

    assert ModelJudge(complete)([CASE]) == [
        Verdict(sufficient=False, failure="status 500", lost=True)
    ]
    assert calls == [1]


OPTIONS = "Which?Options:\nA. a red car\n(B) the boats\nC) 3.5"


@pytest.mark.parametrize(
    ("question", "answer", "observation", "sufficient"),
    [
        ("What colour?", "blue", "The car is BLUE.", True),
        ("What colour?", "blue", "The car is red.", False),
        (OPTIONS, "A", "I see cars, all of them red.", True),
        (OPTIONS, "A", "I see cars.", False),
        (OPTIONS, "B.", "A boat sails.", True),
        (OPTIONS, "C", "It costs 3.5 euros.", True),
        ("How many?", "4", "There are 4 bikes.", True),
        ("How many?", "4", "There are 14 bikes.", False),
        ("Which?", "A", "A is seen.", False),
        ("Where?", "in the", "in the house", False),
    ],
)
def test_words(question, answer, observation, sufficient):
    case = Case(question=question, answer=answer, observation=observation)
    assert judge.words([case]) == [Verdict(sufficient=sufficient)]
