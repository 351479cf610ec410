import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.models.tiny import CONFIG, RAGGED, batch, random_params
from tests.sharded.test_train_step import laid_out
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.models import parameters
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.rollout.sampling import choose
from tgvlm_jax.schema import MeshConfig, SamplingConfig

SETTINGS = {"blueprint": parameters.blueprint(CONFIG), "max_tokens": 8, "pad_id": 0}


def test_a_mesh_generates_the_same_answers():
    """`<evi>` and the end are tokens that the model emits anyway, so feedback and stops count."""
    params = random_params()
    prompt = jax.tree.map(np.asarray, batch(RAGGED * 2).prompt)
    free = generate(params, jax.device_put(prompt), evidence_id=-1, end_id=-1, **SETTINGS)
    ids = {"evidence_id": int(free.tokens[0, 0]), "end_id": int(free.tokens[1, 4])}
    wanted = generate(params, jax.device_put(prompt), **ids, **SETTINGS)
    assert np.any(wanted.tokens[0, 1:] != free.tokens[0, 1:])
    assert np.any(wanted.tokens == ids["end_id"])

    mesh = mesh_lib.make(MeshConfig(fsdp=4, tp=2))
    with mesh_lib.use(mesh):
        placed = laid_out(params, mesh), mesh_lib.put_batch(prompt, mesh)
        found = generate(*placed, **ids, **SETTINGS)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_array_equal(found.grounding.spans, wanted.grounding.spans)
    np.testing.assert_allclose(
        found.grounding.probabilities, wanted.grounding.probabilities, atol=1e-5
    )


@pytest.mark.parametrize("limits", [{"top_p": 0.9}, {"top_k": 7}])
def test_a_vocabulary_over_chips_is_cut_to_the_likeliest_as_on_one(limits):
    """Rows are sorted, which a chip can only do with all of a row."""
    logits = np.asarray(jax.random.normal(jax.random.key(1), (8, 64)), np.float32)
    sampling, key = SamplingConfig(temperature=1.0, **limits), jax.random.key(2)
    draw = jax.jit(lambda x, key: choose(x, None, sampling=sampling, key=key))
    wanted = draw(logits, key)
    mesh = mesh_lib.make(MeshConfig(fsdp=4, tp=2))
    with mesh_lib.use(mesh):
        rows = NamedSharding(mesh, PartitionSpec(("dcn", "fsdp"), "tp"))
        found = draw(jax.device_put(logits, rows), key)
    np.testing.assert_array_equal(found, wanted)
