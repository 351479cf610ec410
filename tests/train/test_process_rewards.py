"""PA-GRPO in the trainer: whose token is whose, what is rewarded, and what reaches the loss."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rewards.test_videop2r import TEXTS, first_character_of_reasoning
from tests.train.test_rollouts import GRPO, change, moved
from tgvlm_jax.data.chat import load_chat, open_chat
from tgvlm_jax.judges import judge
from tgvlm_jax.models import parameters
from tgvlm_jax.objectives import policy
from tgvlm_jax.rewards.videop2r import PERCEPTION, REASONING
from tgvlm_jax.schema import ProcessConfig
from tgvlm_jax.train import loop, policy_batch
from tgvlm_jax.train.process_rewards import ProcessRewards, vocabulary_bytes
from tgvlm_jax.train.rollouts import Rollouts
from tgvlm_jax.train.state import TrainState
from tgvlm_jax.train.step import gradients
from tgvlm_jax.types import InputError, Sample

SHORT = ProcessConfig(perception_tokens=(1, 500), reasoning_tokens=(1, 500))
OPTIONS = "What colour?Options:\nA. red\nB. blue"
GROUP = 4


def asked(kind="multiple choice", question=OPTIONS, truth="B"):
    return Sample(
        frames=np.zeros((0, 0, 0, 3), np.uint8),
        seconds=np.zeros(0),
        duration=1.0,
        question=question,
        answer="",
        spans=np.zeros((0, 2)),
        video="a",
        kind=kind,
        truth=truth,
    )


@pytest.fixture(scope="module")
def chat():
    return load_chat("tiny", "qwen2")


def tokens_of(chat, texts, *, end=True):
    rows = [chat._ids(text + (chat.template.end if end else "")) for text in texts]
    longest = max(map(len, rows))
    return np.array([row + [chat.pad_id] * (longest - len(row)) for row in rows], np.int32)


def rewards(chat, config=SHORT, judge=judge.words):
    return ProcessRewards(config, chat=chat, judge=judge)


@pytest.mark.parametrize("text", TEXTS)
def test_segments_of_ids(chat, text):
    """The shipped vocabulary, an end and padding: as the rule says it on characters."""
    (ids,) = tokens_of(chat, [text])
    ids = np.append(ids, [chat.pad_id] * 3)
    found = rewards(chat).segments(ids)
    boundary = len(text[: first_character_of_reasoning(text)].encode())
    start, pieces = 0, vocabulary_bytes(chat)
    for token, segment in zip(ids, found, strict=True):
        ended = token in (chat.end_id, chat.pad_id)
        wanted = REASONING if ended or start >= boundary else PERCEPTION
        assert segment == wanted, (text, pieces[token])
        start += len(pieces[token])


def test_an_answer_that_is_cut_off_and_one_that_goes_on_after_its_end(chat):
    text = "<observation>a</observation><think>"
    (ids,) = tokens_of(chat, [text], end=False)
    made = rewards(chat)
    assert made.segments(ids)[-1] == REASONING
    again = np.concatenate([ids[:5], [chat.end_id], ids])
    np.testing.assert_array_equal(made.segments(again)[5:], REASONING)


def test_terms_and_mismatch(chat):
    texts = [
        "<observation>It is blue.</observation><think>The answer is B.</think><answer>B</answer>",
        "<observation>It is dark.</observation><think>So A.</think><answer>B</answer>",
        "<think>It is red.</think><answer>A</answer>",
        "blue",
    ]
    found = rewards(chat)(tokens_of(chat, texts), texts, asked())
    table = np.array([one.rewards for one in found])
    np.testing.assert_allclose(table, [[2.2, 2.2], [1.0, 2.2], [0, 1], [0, 0]])
    np.testing.assert_equal([one.terms["mismatch"] for one in found], [0, 1, 0, np.nan])
    assert found[2].terms["perception_tokens"] == 0
    for text, one in zip(texts, found, strict=True):
        count = one.terms["perception_tokens"] + one.terms["reasoning_tokens"]
        assert count == len(chat._ids(text)) + 1


def test_lengths_are_of_segments_of_groups_or_none(chat):
    text = "<observation>It is blue.</observation><think>x</think><answer>B</answer>"
    tokens = tokens_of(chat, [text] * 2)
    for length, wanted in (("segment", [2.2, 2.2]), ("group", [2.0, 2.2]), ("none", [2.0, 2.0])):
        config = dataclasses.replace(SHORT, length=length)
        found = rewards(chat, config)(tokens, [text] * 2, asked())
        np.testing.assert_allclose(found[1].rewards, wanted)


def test_a_judge_is_asked_once_for_what_is_alike_and_not_about_nothing(chat):
    seen = []

    def fails(cases):
        seen.extend(cases)
        return [judge.Verdict(sufficient=False, failure="timed out") for _ in cases]

    texts = ["<observation>It is blue.</observation>"] * 2 + ["<observation> </observation>"]
    found = rewards(chat, judge=fails)(tokens_of(chat, texts), texts, asked())
    assert [(one.question, one.answer, one.observation) for one in seen] == [
        (OPTIONS, "B", "It is blue.")
    ]
    assert [one.failure for one in found] == ["timed out", "timed out", ""]
    assert [one.terms["perception_accuracy"] for one in found] == [0, 0, 0]


# ------------------------------------------------------------------------ in the trainer


@pytest.fixture(scope="module")
def learns(experiment, tmp_path_factory):
    """Questions of VideoP2R's schema about the clip of these tests."""
    path = tmp_path_factory.mktemp("records") / "rl.json"
    record = {
        "problem": "What colour?",
        "options": "['A. red', 'B. blue']",
        "solution": "<answer>B</answer>",
        "path": "./bikes.mp4",
        "data_type": "video",
        "problem_type": "multiple choice",
    }
    path.write_text(json.dumps([record | {"problem_id": str(n)} for n in range(4)]))
    data = change(
        experiment.data,
        annotations=str(path),
        frames=(4,),
        min_seconds=0.0,
        fps=1.0,
        max_events=1,
        instruction="process_brief",
    )
    objective = change(
        GRPO, reward="process", process=SHORT, spans=0.0, rollout_size=0, max_tokens=8
    )
    model = change(experiment.model, evidence=None)
    return change(experiment, model=model, data=data, objective=objective)


def roll(experiment, scored):
    """A rollout whose rewards and segments are given."""
    chat = open_chat(experiment.data)
    rollouts = Rollouts(
        experiment,
        blueprint=parameters.blueprint(experiment.model),
        chat=chat,
        mesh=None,
    )
    if scored is not None:
        own = rollouts.process

        def given(tokens, texts, sample):
            made = own(tokens, texts, sample)
            cut = np.where(np.arange(tokens.shape[1]) < 3, PERCEPTION, REASONING).astype(np.int32)
            return [
                dataclasses.replace(one, rewards=row, segments=cut)
                for one, row in zip(made, scored, strict=True)
            ]

        rollouts.process = given
    params = moved(experiment)
    state = TrainState(step=jnp.int32(0), params=params, opt_state=(), key=jax.random.key(3))
    data = loop.batches(experiment, chat)
    try:
        return params, rollouts(state, next(data))
    finally:
        data.close()
        rollouts.close()


# The worked example of VideoP2R 9: rewards of perception and reasoning of four answers.
PERCEIVED, REASONED = np.array([2.2, 1, 2, 1]), np.array([2.2, 1, 1.7, 2])
WORKED = np.stack([PERCEIVED, REASONED], axis=1)
A_P = [1.015, -0.8588, 0.7027, -0.8588]
A_R = [0.9042, -1.3802, -0.0476, 0.5235]
SUMMED = [1.0982, -1.2446, 0.4149, -0.2685]


@pytest.mark.parametrize(
    ("advantages", "wanted"),
    [
        ("separate", (A_P, A_R)),
        ("joint", (SUMMED, SUMMED)),
        ("reasoning", (A_R, A_R)),
        ("perception", (A_P, A_P)),
    ],
)
def test_each_token_has_the_advantage_of_its_segment(learns, advantages, wanted):
    process = change(SHORT, advantages=advantages)
    one = change(learns.objective, process=process, advantage=change_epsilon(learns))
    _, rolled = roll(change(learns, objective=one), WORKED)
    found = np.asarray(rolled.batch.advantages)
    for row in found:
        np.testing.assert_allclose(row[:, 0], wanted[0], atol=2e-4)
        np.testing.assert_allclose(row[:, -1], wanted[1], atol=2e-4)
    assert rolled.metrics["equal_perception"] == rolled.metrics["silent_groups"] == 0
    assert rolled.metrics["reward"] == pytest.approx(WORKED.sum() / 4)
    for name in ("perception_format", "reasoning_accuracy", "perception_tokens", "mismatch"):
        assert name in rolled.metrics


def change_epsilon(experiment):
    return change(experiment.objective.advantage, epsilon=1e-4)


def learned(experiment, scored):
    params, rolled = roll(experiment, scored)
    setting = {"blueprint": parameters.blueprint(experiment.model), "experiment": experiment}
    found, _ = jax.jit(lambda p, b, k: gradients(p, b, k, **setting))(
        params, rolled.batch, jax.random.key(0)
    )
    return rolled, found


def test_equal_reasoning_still_teaches_perception(learns):
    """The collapse that process-aware advantages avoid, and plain GRPO does not."""
    equal = np.stack([PERCEIVED, np.ones(4)], axis=1)
    rolled, found = learned(learns, equal)
    assert rolled.metrics["equal_reasoning"] == 1.0
    assert rolled.metrics["silent_groups"] == 0.0
    assert max(float(np.abs(x).max()) for x in found.values()) > 1e-5
    plain = change(learns.objective, process=change(SHORT, advantages="reasoning"))
    rolled, found = learned(change(learns, objective=plain), equal)
    assert rolled.metrics["silent_groups"] == 1.0
    assert all(not np.any(x) for x in found.values())


def test_the_other_segment_is_untouched(learns):
    one = roll(learns, WORKED)[1].batch.advantages
    other = roll(learns, np.stack([PERCEIVED[::-1], REASONED], axis=1))[1].batch.advantages
    np.testing.assert_array_equal(one[..., 3:], other[..., 3:])
    assert np.any(one[..., :3] != other[..., :3])


def test_segment_norm_adds_the_means_of_segments(learns):
    """Each segment's tokens count one together; elsewhere the answer's do."""
    config = change(
        learns.objective,
        process=change(SHORT, segment_norm="segment"),
        policy=policy.PRESETS["video_r1"],
        reference="copy",
    )
    plain = roll(learns, WORKED)[1].batch
    assert plain.scale is None
    rolled = change(config, policy=change(config.policy, kl=0.0), reference="none")
    batch = roll(change(learns, objective=rolled), WORKED)[1].batch
    mask = np.asarray(batch.response.mask)
    segment = np.broadcast_to(np.arange(mask.shape[2]) >= 3, mask.shape)
    for part in (False, True):
        inside = mask & (segment == part)
        summed = np.where(inside, batch.scale, 0).sum(axis=2)
        np.testing.assert_allclose(summed, inside.any(axis=2), atol=1e-6)
    with pytest.raises(InputError, match=r"needs policy\.aggregation"):
        change(learns.objective, process=change(SHORT, segment_norm="segment"))


def test_an_unscored_question_is_named_and_teaches_nothing(learns):
    one = change(learns, data=change(learns.data, annotations="", tasks=("counting",), fps=8.0,
                                     frames=(8,), prompt_bucket=128))  # fmt: skip
    _, rolled = roll(one, None)
    assert rolled.metrics["failed_rewards"] == 1.0
    assert "no score for 'counting/easy' questions" in rolled.failures[0]
    assert not np.asarray(rolled.batch.response.mask).any()
    assert policy_batch.SEGMENTS == 2


def test_a_run_logs_both_segments(learns, tmp_path):
    steps = change(learns.train, steps=2, log_every=1)
    loop.train(change(learns, train=steps), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"equal_perception", "silent_groups", "mismatch", "judge_failures"} <= set(records[0])
    assert records[0]["reward_multiple_choice"] == records[0]["reward"]
    assert records[0]["compiles"] == records[1]["compiles"]
