import numpy as np
import pytest

from tgvlm_jax.evaluation.pretext import score
from tgvlm_jax.rewards import videossr
from tgvlm_jax.types import InputError, Sample


def sample(kind, answer):
    return Sample(
        frames=np.zeros((2, 0, 0, 3), np.uint8),
        seconds=np.array([0.0, 24.0]),
        duration=48.0,
        question="",
        answer=answer,
        spans=np.zeros((0, 2)),
        video="film",
        kind=kind,
    )


def test_scores_by_task_and_kind_beside_blind_ones():
    samples = [
        sample("jigsaw/6", "123456"), sample("grounding/mirror", "0.0-12.0"),
        sample("grounding/blur", "12.0-24.0"), sample("grounding/mirror", "24.0-36.0"),
    ]  # fmt: skip
    found = score(samples, ["123456", "0.0-6.0", "12.0-24.0", "no idea"])
    assert list(found.tasks) == ["grounding", "jigsaw"]
    assert list(found.kinds) == ["grounding/blur", "grounding/mirror", "jigsaw/6"]
    one = found.tasks["grounding"]
    assert (one.questions, one.strict, one.readable) == (
        3,
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
    )
    assert one.smooth == pytest.approx(0.5)
    assert one.blind == videossr.blind(samples)["grounding"]
    assert one.best_blind == max(one.blind.values())
    assert found.kinds["grounding/mirror"].smooth == pytest.approx(0.25)
    assert found.kinds["grounding/mirror"].blind["whole"] == pytest.approx(0.25)
    table = found.table()
    names = ["grounding", "grounding/blur", "grounding/mirror", "jigsaw", "jigsaw/6"]
    assert [row[0] for row in table.rows] == names
    jigsaw = dict(zip(table.columns, table.rows[-1], strict=True))
    assert (jigsaw["reward"], jigsaw["blind: whole"]) == (1.0, None)
    assert found.to_json()["tasks"]["jigsaw"]["best_blind"] == 1.0  # as shown is right here


def test_nothing_to_score():
    with pytest.raises(InputError, match="no held-out questions"):
        score([], [])
