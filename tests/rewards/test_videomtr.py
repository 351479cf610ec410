"""Both rule books on short trajectories, and every difference between them."""

import dataclasses

import numpy as np
import pytest

from tgvlm_jax.rewards import videomtr

PAPER, RELEASED = videomtr.PRESETS["paper"], videomtr.PRESETS["released"]
NO_BONUS = {"bootstrap": "none"}


def trajectories(*rows, start=0.2):
    """Turns written as numbers (a retrieval's overlap), "right", "wrong" or "bad"."""
    longest = max(map(len, rows))

    def table(value, dtype):
        full = [[value(row[i]) if i < len(row) else value(None) for i in range(longest)]
                for row in rows]  # fmt: skip
        return np.asarray(full, dtype)

    return videomtr.Turns(
        taken=table(lambda x: x is not None, bool),
        retrieved=table(lambda x: isinstance(x, float), bool),
        answered=table(lambda x: x in ("right", "wrong"), bool),
        iou=table(lambda x: x if isinstance(x, float) else np.nan, np.float64),
        start_iou=np.full(len(rows), start),
        answer=table(lambda x: float(x == "right"), np.float64),
    )


def total(rule, *rows, start=0.2, **changes):
    rule = dataclasses.replace(rule, **{**NO_BONUS, **changes})
    turns = trajectories(*rows, start=start)
    shaped = videomtr.shape(turns, rule, state=videomtr.BootstrapState())
    np.testing.assert_array_equal(shaped.total[~turns.taken], 0)
    return shaped.total


@pytest.mark.parametrize(
    ("row", "rewards"),
    [
        (["right"], [1.1]),
        (["wrong"], [0.1]),
        (["bad"], [0.0]),
        ([0.4, "right"], [0.6, 1.1]),
        ([0.4, "wrong"], [0.0, 0.1]),  # gated, but the last turn's form
        ([0.4, 0.3, "right"], [0.6, 0.1 - 0.5 * 0.1, 1.1]),  # worse than the best so far
        ([0.4, 0.3, 0.35, "right"], [0.6, 0.05, 0.1 - 0.5 * 0.05, 1.1]),
        ([0.4, 0.6], [0.0, 0.1 + 0.5]),  # never answered: the last turn is not an earlier one
        ([0.4, "bad"], [0.0, 0.0]),
    ],
)
def test_the_papers_rules(row, rewards):
    np.testing.assert_allclose(total(PAPER, row)[0], rewards, atol=1e-6)


@pytest.mark.parametrize(
    ("row", "rewards"),
    [
        (["right"], [1.1]),
        ([0.4, "right"], [0.6, 1.1]),
        ([0.4, "wrong"], [0.1, 0.1]),  # gated: its form is kept
        ([0.4, 0.3, "right"], [0.6, 0.1, 1.1]),  # a drop costs nothing
        ([0.4, 0.3, 0.35, "right"], [0.6, 0.1, 0.6, 1.1]),  # better than the last will do
        ([0.2005, "right"], [0.1, 1.1]),  # within the margin
        ([0.4, 0.6], [0.6, 0.6]),  # leak: never answered, and nothing is taken back
        ([0.4, "bad"], [0.6, 0.0]),  # leak: so is garbage after a good retrieval
    ],
)
def test_the_released_rules(row, rewards):
    np.testing.assert_allclose(total(RELEASED, row)[0], rewards, atol=1e-6)


def test_garbage_after_a_good_retrieval_pays_in_the_code_only():
    row = [0.4, "bad"]
    assert total(RELEASED, row).sum() > 0.5
    assert total(PAPER, row).sum() == 0


def test_a_long_wrong_trajectory_never_beats_a_short_right_one():
    wrong = total(PAPER, [0.4, 0.6, 0.8, "wrong"]).sum()
    assert wrong < total(PAPER, ["right"]).sum()


def test_where_nothing_is_annotated_only_form_and_answer_count():
    turns = trajectories([0.4, "right"], start=np.nan)
    turns = dataclasses.replace(turns, iou=np.full((1, 2), np.nan))
    for rule in (PAPER, dataclasses.replace(RELEASED, final=0.5)):
        terms = videomtr.turn_terms(turns, rule)
        np.testing.assert_allclose(sum(terms.values()), [[0.1, 1.1]], atol=1e-6)


def test_last_frames_are_compared_with_the_first_for_right_answers_only():
    for row, final in (
        ([0.4, "right"], 0.5), ([0.1, "right"], -0.5), (["right"], 0), ([0.4, "wrong"], 0)
    ):  # fmt: skip
        terms = videomtr.turn_terms(trajectories(row), dataclasses.replace(RELEASED, final=0.5))
        assert terms["final"].sum() == pytest.approx(final), row


def test_answers_by_type():
    reward = videomtr.answer_reward
    assert reward("B", "<answer>B</answer>", kind="multiple choice") == 1
    assert reward("B", "B", kind="multiple choice", turn=3, decay=0.1) == pytest.approx(0.8)
    assert reward("C", "B", kind="multiple choice", turn=3, decay=0.1) == 0
    assert reward("4.2", "4.20", kind="numerical", turn=3, decay=0.1) == 1
    assert reward("a dog", "a dog", kind="free-form") == 0


def shaped(rule, *rows, state=None):
    return videomtr.shape(trajectories(*rows), rule, state=state or videomtr.BootstrapState())


def test_the_papers_bonus_goes_to_every_retrieval():
    rare = [["wrong"]] * 19 + [[0.1]]
    found = shaped(PAPER, *rare)
    assert found.rate == pytest.approx(1 / 20)
    np.testing.assert_array_equal(found.terms["bootstrap"][:, 0], [0] * 19 + [1])
    some = [["wrong"], ["wrong"], [0.1, "right"]]
    found = shaped(PAPER, *some)
    assert found.rate == pytest.approx(1 / 4)
    np.testing.assert_array_equal(found.terms["bootstrap"], [[0, 0], [0, 0], [0.5, 0]])
    assert not np.any(shaped(PAPER, [0.1, 0.2, "right"]).terms["bootstrap"])


def test_the_released_bonus_goes_to_all_but_the_last_positive_turn():
    found = shaped(RELEASED, ["right"], ["right"], [0.4, 0.5, "wrong"], ["bad"])
    assert found.rate == pytest.approx(1 / 3)
    np.testing.assert_array_equal(found.terms["bootstrap"][2], [0.5, 0.5, 0])
    rare = shaped(RELEASED, *[["right"]] * 19, [0.4, 0.5])
    np.testing.assert_array_equal(rare.terms["bootstrap"][19], [1, 0])
    assert not np.any(shaped(RELEASED, ["bad"]).total)


def test_the_bonus_ends_for_good_once_retrievals_are_frequent():
    often, never = [[0.4, 0.5, "right"]], [["right"]] * 4 + [[0.4, "right"]]
    rule = dataclasses.replace(PAPER, patience=2)
    state = videomtr.BootstrapState()
    for row, above, over in ((often, 1, False), (never, 0, False), (often, 1, False),
                             (often, 2, True), (never, 0, True)):  # fmt: skip
        found = shaped(rule, *row, state=state)
        state = found.state
        assert (state.above, state.over) == (above, over)
    assert not np.any(found.terms["bootstrap"])
    forever = shaped(RELEASED, *often, state=videomtr.BootstrapState(above=100))
    assert not forever.state.over


def test_rows_may_stand_in_any_order():
    rows = [["right"], [0.4, "wrong"], [0.1, 0.5, "right"], ["bad", 0.3]]
    for rule in videomtr.PRESETS.values():
        one, other = shaped(rule, *rows), shaped(rule, *rows[::-1])
        np.testing.assert_array_equal(one.total, other.total[::-1])
        np.testing.assert_allclose(sum(one.terms.values()), one.total)
