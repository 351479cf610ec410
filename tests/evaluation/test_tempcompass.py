"""TempCompass in its released files: {video: {dimension: [question, answer]}}."""

import pytest

from tgvlm_jax.types import InputError

CHOICE = {"question": "What happens?\nA. pouring\nB. drinking\nC. running", "answer": "B. drinking"}
YES = {"question": "Is the flower wilting?", "answer": "yes"}
CAPTION = {
    "question": "Which caption matches better?\nCaption A: One wilts.\nCaption B: It opens.",
    "answer": "Caption B: It opens.",
}
DIMENSIONS = {"action": {"type": "fine-grained action"}, "speed": {"type": "relative speed"}}
META = {"107": {"eval_dim": DIMENSIONS | {"order": None}}}


def files(choice=CHOICE, yes=YES, caption=CAPTION):
    return {
        "multi-choice": {"107": {"action": [choice], "speed": [CHOICE]}},
        "yes_no": {"107": {"action": [yes]}},
        "caption_matching": {"107_0": {"order": [caption]}},
    }


def test_three_tasks_and_their_rules(opened, scored):
    suite = opened("tempcompass", **files(), meta_info=META)
    names = [one.name for one in suite.questions]
    assert names == ["multi-choice/107/action/0", "multi-choice/107/speed/0",
                     "yes_no/107/action/0", "caption_matching/107_0/order/0"]  # fmt: skip
    assert suite.questions[3].video == "107_0.mp4"
    texts = dict(zip(names, ["B) drinking", "it is B", "Yes, it is", "Caption B"], strict=True))
    figures = scored(suite, texts).figures
    assert figures["overall"] == 75  # "it is B" would go to a judge
    rows = {row["task"]: row for row in figures["tables"]["TempCompass by task"]}
    assert rows["multi-choice"]["chance"] == pytest.approx(100 / 3)
    assert rows["yes_no"]["best constant"] == 100
    types = [row["type"] for row in figures["tables"]["TempCompass by type"]]
    assert types == ["fine-grained action", "relative speed"]
    tagged = {name: f"<think>x</think><answer>{text}</answer>" for name, text in texts.items()}
    tagged["multi-choice/107/speed/0"] = "<answer>B</answer>"
    assert scored(suite, tagged).figures["overall"] == 0
    assert scored(suite, tagged, "videor1").figures["overall"] == 75  # "B) drinking" is no letter


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            files(choice=CHOICE | {"answer": "D. flying"}),
            "multi-choice.json: 107/action/0: 'answer'",
        ),
        (
            files(choice={"question": "?\nx\ny", "answer": "x"}),
            "must begin like an option of the question, found 'x'",
        ),
        (
            files(yes=YES | {"answer": "maybe"}),
            "yes_no.json: 107/action/0: 'answer' must be yes or",
        ),
        (files(caption={"question": "?"}), "caption_matching.json: 107_0/order/0: has no 'answer'"),
        ({"captioning": {}}, "captioning.json: captions can only be scored by a judge"),
        ({"other": {}}, "other.json: its name must be one of multi-choice, yes_no"),
        ({"yes_no": {"1": {"smell": [YES]}}}, "'dimension' must be one of action, direction"),
        ({"yes_no": {"1": [YES]}}, "yes_no.json: 1: must be an object, found a list"),
    ],
)
def test_what_is_wrong_is_named(opened, content, message):
    with pytest.raises(InputError) as error:
        opened("tempcompass", **content)
    assert message in str(error.value)
