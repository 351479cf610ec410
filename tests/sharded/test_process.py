"""Advantages of segments on a mesh against the same on one device."""

import dataclasses

import jax
import numpy as np
import pytest

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.objectives import policy
from tgvlm_jax.schema import GrpoConfig, MeshConfig, ProcessConfig
from tgvlm_jax.train import policy_batch
from tgvlm_jax.train.policy_batch import Segmented

CONFIG = GrpoConfig(
    reward="process",
    process=ProcessConfig(segment_norm="segment"),
    num_generations=4,
    policy=dataclasses.replace(policy.PRESETS["video_r1"], kl=0.0),
)


@pytest.mark.parametrize("advantages", ["separate", "joint", "reasoning"])
def test_advantages_of_tokens(advantages):
    rng = np.random.default_rng(0)
    host = Segmented(
        rewards=rng.integers(0, 3, (8, 4, 2)).astype(np.float32),
        segments=np.sort(rng.integers(0, 2, (8, 4, 6)), axis=2).astype(np.int32),
    )
    mask = rng.random((8, 4, 6)) < 0.8
    process = ProcessConfig(advantages=advantages, segment_norm="segment")
    config = dataclasses.replace(CONFIG, process=process)

    @jax.jit
    def run(segmented, mask):
        tokens = policy_batch._token_advantages(segmented, config)
        scale = policy_batch._scale(segmented, mask, config)
        return tokens, scale, policy_batch._collapsed(segmented, tokens)

    found = []
    for mesh in (None, mesh_lib.make(MeshConfig(fsdp=4, tp=2))):
        with mesh_lib.use(mesh):
            found.append(jax.device_get(run(*mesh_lib.put_batch((host, mask), mesh))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *found)
    assert np.any(found[0][0] != 0)
