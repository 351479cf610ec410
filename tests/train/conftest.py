"""A clip in shards and the smallest run over it."""

import pathlib

import pytest

from tests.models.tiny import CONFIG
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.schema import (
    DataConfig,
    DecoderConfig,
    Experiment,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)

BIKES = pathlib.Path(__file__).parent.parent / "assets" / "bikes.mp4"


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bikes")
    write_shards([BIKES], folder, fps=8, height=24, width=32, workers=1)
    return folder


@pytest.fixture(scope="session")
def experiment(shards):
    """Eight steps over two frame buckets, by this seed of 4 6 6 6 4 4 4 4 frames."""
    decoder = DecoderConfig(width=16, layers=3, heads=4, kv_heads=2, head_size=8, hidden=32)
    return Experiment(
        seed=9,
        model=ModelConfig(tower=CONFIG.tower, decoder=decoder, evidence=CONFIG.evidence),
        data=DataConfig(
            shards=str(shards),
            fps=8,
            batch_size=2,
            frames=(4, 6),
            kinds=("invert", "grayscale"),
            train_span=(0.0, 1.0),
            prompt_bucket=64,
            threads=1,
            prefetch=2,
        ),
        optim=OptimConfig(warmup_steps=2),
        train=TrainConfig(steps=8, log_every=3, checkpoint_every=4),
    )
