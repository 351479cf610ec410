import jax
import numpy as np
import pytest

from tests.models.tiny import CONFIG, random_params
from tgvlm_jax.models import parameters, vit

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 3, 24, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def tower():
    params = random_params()
    blueprint = parameters.blueprint(CONFIG)
    return jax.jit(lambda frames: blueprint.build(params).tower(frames))


def test_cells_are_cut_row_by_row():
    found = jax.jit(vit._cells, static_argnames=("patch", "cell"))(FRAMES, patch=8, cell=4)
    assert found.shape == (2, 3, 3 * 4, 4, 4 * 4 * 3)
    for patch, cell in np.ndindex(12, 4):
        y = 8 * (patch // 4) + 4 * (cell // 2)
        x = 8 * (patch % 4) + 4 * (cell % 2)
        wanted = FRAMES[:, :, y : y + 4, x : x + 4].reshape(2, 3, -1)
        np.testing.assert_array_equal(found[:, :, patch, cell], wanted)


def test_a_frame_changes_its_own_token_and_no_other(tower):
    before = tower(FRAMES)
    assert before.shape == (2, 3, CONFIG.decoder.width)
    changed = FRAMES.copy()
    changed[1, 2, 5, 7] ^= 255  # one pixel
    moved = np.abs(tower(changed) - before).max(axis=-1)
    assert moved[1, 2] > 1e-4
    moved[1, 2] = 0
    np.testing.assert_array_equal(moved, 0)


def test_where_a_patch_stands_matters(tower):
    """Upside-down frames must look different, whatever the attention does with patches."""
    turned = tower(np.ascontiguousarray(FRAMES[:, :, ::-1, ::-1]))
    swapped = FRAMES.reshape(2, 3, 3, 8, 32, 3)[:, :, ::-1].reshape(FRAMES.shape)  # rows of patches
    for other in (turned, tower(swapped)):
        assert np.abs(other - tower(FRAMES)).max() > 1e-2
