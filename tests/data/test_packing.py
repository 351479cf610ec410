"""Who shares a row, and that hosts, threads and resumed runs all make the same rows."""

import dataclasses
import pickle

import jax
import numpy as np
import pytest

from tests.data.test_patch_videos import film as video
from tests.data.test_pipeline import assert_same, rows
from tgvlm_jax.data import packing
from tgvlm_jax.data.chat import load_chat, open_chat
from tgvlm_jax.data.pipeline import Batches, BatchMaker
from tgvlm_jax.data.pretext_source import PretextTasks
from tgvlm_jax.schema import MOST_PACKED, DataConfig, presets
from tgvlm_jax.types import InputError

CONFIG = DataConfig(
    template="qwen3",
    fps=12.5,
    batch_size=2,
    pack=3,
    frames=(8, 12),
    strides=(1, 2),
    tasks=("grounding", "jigsaw", "counting"),
    kinds=("mirror",),
    jigsaw_clips=(2,),
    min_pixels=8 * 16,
    max_pixels=16 * 24,
    prompt_tokens=300,
    prompt_bucket=32,
    response_bucket=4,
    visual_bucket=4,
)
STEPS = 3


@pytest.fixture(params=["patches", "frames"])
def make(request, film):
    """Makes a maker of batches for a tower of patches or of frames."""

    def make(*, rows=None, **change):
        config, patches = dataclasses.replace(CONFIG, **change), request.param == "patches"
        size = None if patches else (12, 18)
        if patches:
            chat = open_chat(config, presets.QWEN3_VL_TINY)
        else:
            chat = load_chat("tiny", "qwen3", evidence=False)
        source = PretextTasks(film, config, size=size, split="train", seed=0)
        return BatchMaker(source=source, chat=chat, config=config, seed=0, rows=rows)

    return make


# ------------------------------------------------------------------------------------ dealing


@pytest.mark.parametrize("seed", range(6))
def test_every_sample_has_one_place_in_a_balanced_row(seed):
    rng = np.random.default_rng(seed)
    count, ways = int(rng.integers(8, 60)), int(rng.integers(1, 8))
    costs = rng.integers(1, 400, (count, 3)) * [4, 1, 2]
    dealt = packing.deal(costs, ways)
    assert sorted(i for row in dealt for i in row) == list(range(count))
    assert all(row and row == sorted(row) for row in dealt)
    assert packing.deal(costs.copy(), ways) == dealt

    def padded(dealt):
        return ways * np.max([costs[row].sum(axis=0) for row in dealt], axis=0).sum()

    assert padded(dealt) <= padded([np.arange(i, count, ways) for i in range(ways)])
    # Of one kind: no row is longer than the mean one by more than a sample (Graham 1969).
    (longest,) = np.max([costs[row, :1].sum(axis=0) for row in packing.deal(costs[:, :1], ways)], 0)
    assert longest <= costs[:, 0].mean() * count / ways + costs[:, 0].max() * (1 - 1 / ways)


def test_a_row_has_no_more_than_masks_can_count():
    costs = np.ones((MOST_PACKED + 500, 1), np.int64)
    costs[7] = 10**6
    dealt = packing.deal(costs, 2)
    assert sorted(map(len, dealt)) == [500, MOST_PACKED]


# ------------------------------------------------------------------------------------ batches


def test_rows_hold_all_samples_of_their_step_and_no_others(make):
    maker = make()
    batch = maker(1)
    prompt, response = batch.prompt, batch.response
    numbers = maker.source.numbers(1)
    assert len(numbers) == 6
    pairs = [maker._measured(n, maker.source.bucket(1)) for n in numbers]
    found = set()
    for one, said in zip(rows(prompt), rows(response), strict=True):
        for segment in range(one.packed.segments.max() + 1):
            mine = (one.packed.segments == segment) & (np.arange(one.tokens.size) < one.length)
            own = said.mask & (said.packed.segments == segment)
            assert one.packed.places[mine].tolist() == list(range(mine.sum()))
            assert said.packed.places[own].tolist() == list(range(own.sum()))
            assert set(said.packed.ends[own]) == {np.flatnonzero(mine).max()}
            found.add((tuple(one.tokens[mine]), tuple(said.tokens[own])))
    assert found == {(tuple(one.prompt), tuple(one.response)) for _, one in pairs}
    seen = jax.tree.leaves(prompt.visual)[0].shape[1]
    assert prompt.tokens.shape[1] % 32 == response.tokens.shape[1] % 4 == seen % 4 == 0


def test_hosts_and_resumed_runs_make_the_same_rows(make):
    maker = make()
    whole = [maker(step) for step in range(STEPS)]
    parts = [make(rows=(row,))(1) for row in range(2)]
    assert_same(jax.tree.map(lambda *rows: np.concatenate(rows), *parts), whole[1])
    first = Batches(pickle.loads(pickle.dumps(maker)), steps=STEPS)
    assert_same(next(first), whole[0])
    state = first.get_state()
    first.close()
    later = Batches(make(), steps=STEPS)
    later.set_state(state)
    assert_same(next(later), whole[1])
    later.close()


@pytest.mark.parametrize("make", ["patches"], indirect=True)
def test_what_a_sample_is_shown_stands_where_it_is_said(make):
    """The patches at a packed sample's slots are those that it has alone."""
    maker = make()
    numbers, frames = maker.source.numbers(0), maker.source.bucket(0)
    planned = packing.plan([maker._measured(n, frames) for n in numbers], maker.config)
    for one, samples in zip(rows(maker(0).prompt), planned.rows, strict=True):
        tokens = one.visual.patches.reshape(-1, 4, one.visual.patches.shape[-1])
        for segment, place in enumerate(samples):
            alone = maker.chat.encode(maker.source.sample(numbers[place], frames=frames))
            index = one.visual_index[(one.packed.segments == segment) & (one.visual_index >= 0)]
            wanted = np.concatenate([seen.patched.patches for seen in alone.videos.seen])
            np.testing.assert_array_equal(tokens[index].reshape(wanted.shape), wanted)
        # Frames of one number are one frame: each lies in one row of patches.
        numbered = [set(row[row >= 0].tolist()) for row in one.visual.frames]
        assert sum(map(len, numbered)) == len(set().union(*numbered))


def test_a_sample_that_is_too_large_alone_is_named():
    chat = open_chat(CONFIG, presets.QWEN3_VL_TINY)

    def plan(sample, **change):
        pairs = [(sample, chat.encode(sample, pixels=False))] * 6
        return packing.plan(pairs, dataclasses.replace(CONFIG, **change))

    assert plan(video(12)).visual % 4 == 0
    with pytest.raises(InputError, match=r"film, 'Why\?': .*but data\.patch_rows=6.*data\.frames"):
        plan(video(14))
    with pytest.raises(InputError, match=r"a prompt of \d+ tokens, but data\.prompt_tokens=64"):
        plan(video(12), prompt_tokens=64)
    plain = load_chat("tiny", "qwen3", evidence=False)
    with pytest.raises(InputError, match=r"14 frames, but the largest bucket of .* is 12"):
        packing.plan([(video(14), plain.encode(video(14)))] * 6, CONFIG)


def test_rows_have_few_lengths():
    lengths = [packing.row_length(n, 16) for n in range(1, 4097)]
    assert all(n <= found < n + max(16, n / 4) and found % 16 == 0 for n, found in
               enumerate(lengths, start=1))  # fmt: skip
    assert len({found for found in lengths if 1024 < found <= 2048}) == 4
    assert packing.row_length(0, 8) == 0
    assert [packing.row_length(n, 6) for n in (6, 7, 100)] == [6, 12, 108]
