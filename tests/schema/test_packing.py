import dataclasses

import pytest

from tgvlm_jax.schema import (
    DataConfig,
    DecoderConfig,
    EvidenceConfig,
    Experiment,
    FpoConfig,
    FrameEncoderConfig,
    MeshConfig,
    ModelConfig,
    presets,
)
from tgvlm_jax.types import InputError

PLAIN = Experiment(model=presets.QWEN3_VL_TINY, data=DataConfig(pack=4, batch_size=2))


def test_a_step_takes_as_many_samples():
    assert PLAIN.data.samples == 8
    assert dataclasses.replace(PLAIN.data, pack=1).samples == 2


READS = ModelConfig(
    tower=FrameEncoderConfig(), decoder=DecoderConfig(width=3072, heads=32), evidence=None
)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"objective": FpoConfig()}, r"objective\.kind='sft'"),
        ({"model": ModelConfig(evidence=EvidenceConfig())}, r"model\.evidence=None"),
        ({"model": READS}, "the tower reads the question"),
        ({"data": DataConfig(pack=4, max_sources=2)}, r"data\.max_sources=0"),
        ({"mesh": MeshConfig(cp=2)}, r"mesh\.cp=1"),
    ],
)
def test_what_cannot_be_packed_says_so(change, says):
    with pytest.raises(InputError, match=rf"data\.pack=4, but .*{says}.*, or data\.pack=1"):
        dataclasses.replace(PLAIN, **change)
    without = dataclasses.replace(change.get("data", PLAIN.data), pack=1)
    dataclasses.replace(PLAIN, **change | {"data": without})


def test_a_row_has_its_limit():
    with pytest.raises(InputError, match="pack=1001: give 1000 at most"):
        DataConfig(pack=1001)
    with pytest.raises(InputError, match="visual_bucket=0"):
        DataConfig(visual_bucket=0)
