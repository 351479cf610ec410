import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax import mesh
from tgvlm_jax.models.tower import cut, in_chunks
from tgvlm_jax.schema import MeshConfig

FRAMES = np.random.default_rng(0).standard_normal((2, 7, 3), np.float32)


def test_patches_are_cut_row_by_row():
    images = np.random.default_rng(0).standard_normal((2, 1, 8, 12, 3), np.float32)
    found = cut(jnp.asarray(images), patch=4)
    assert found.shape == (2, 1, 6, 4, 4, 3)
    for patch in range(6):
        y, x = 4 * (patch // 3), 4 * (patch % 3)
        np.testing.assert_array_equal(found[:, :, patch], images[:, :, y : y + 4, x : x + 4])


@pytest.mark.parametrize("chunk", [0, 1, 3, 7, 100])
def test_chunks_change_nothing(chunk):
    weight = np.random.default_rng(1).standard_normal((3, 5), np.float32)

    def loss(weight, frames):
        out = in_chunks(lambda part: jnp.tanh(part @ weight), frames, chunk=chunk)
        return jnp.sum(out**2), out

    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, out), grads = grad(weight, FRAMES)
    np.testing.assert_allclose(out, np.tanh(FRAMES @ weight), rtol=1e-5)
    (_, _), wanted = jax.value_and_grad(
        lambda w, x: (jnp.sum(jnp.tanh(x @ w) ** 2), None), argnums=(0, 1), has_aux=True
    )(weight, FRAMES)
    for found, expected in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("chunk", "parts"), [(0, [7]), (3, [3]), (7, [7]), (1, [1])])
def test_a_chunk_has_the_frames_it_may(chunk, parts):
    seen = []

    def count(part):
        seen.append(part.shape[1])
        return part

    in_chunks(count, jnp.asarray(FRAMES), chunk=chunk)
    assert sorted(set(seen)) == parts


def test_memory_does_not_grow_with_the_video():
    weight = jnp.ones((8, 1000))

    def wide(part):
        return jnp.tanh(part @ weight) @ weight.T

    def scratch(chunk):
        run = jax.jit(jax.grad(lambda x: jnp.sum(in_chunks(wide, x, chunk=chunk) ** 2)))
        shape = jax.ShapeDtypeStruct((1, 256, 8), jnp.float32)
        return run.lower(shape).compile().memory_analysis().temp_size_in_bytes

    assert scratch(4) < scratch(0) / 8


def test_a_mesh_rounds_chunks_up_and_gives_frames_to_every_device():
    chosen = mesh.make(MeshConfig(fsdp=4, tp=2))
    frames = np.random.default_rng(0).standard_normal((4, 7, 3), np.float32)
    shapes = []

    def function(part):
        shapes.append((part.shape, jax.typeof(part).sharding.spec))
        return 2 * part

    with mesh.use(chosen):
        given = mesh.put_batch(frames, chosen)
        out = jax.jit(lambda x: in_chunks(function, x, chunk=3))(given)
    assert shapes[0][0] == (4, 4, 3)
    assert shapes[0][1][1] == ("tp", "cp")
    np.testing.assert_array_equal(out, 2 * frames)
