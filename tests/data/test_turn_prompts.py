"""Pools of frames, and turns as arrays of one shape."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.models import tiny, tiny_qwen
from tests.train.conftest import BIKES
from tgvlm_jax.data import hidden_marks
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.data.hidden_marks import OPTIONS, HiddenMarks
from tgvlm_jax.data.looking import LookedInto
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.data.turn_prompts import TurnPrompts
from tgvlm_jax.schema import DataConfig, ModelConfig, TurnsConfig
from tgvlm_jax.types import InputError

TURNS = TurnsConfig(first=3, each=2, turns=3, tokens=48, pool=8, rate=2.0)
DATA = DataConfig(
    fps=8.0,
    batch_size=2,
    frames=(12,),
    strides=(1,),
    train_span=(0.0, 1.0),
    turns=TURNS,
    prompt_tokens=64,
    min_pixels=16 * 16,
    max_pixels=24 * 24,
)
VIT = ModelConfig(
    tower=tiny.CONFIG.tower,
    decoder=dataclasses.replace(tiny.CONFIG.decoder, vocab_size=520),
    evidence=None,
    two_way_frames=False,
)
MODELS = {"tiny_vit": VIT, "qwen2_5_vl": tiny_qwen.CONFIGS["qwen2_5_vl"]}
POOL = np.random.default_rng(0).integers(0, 256, (9, 24, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bikes")
    write_shards([BIKES], folder, fps=8, height=24, width=32, workers=1)
    return open_shards(folder)


def prompts(kind, **changes):
    template = "qwen2" if kind == "qwen2_5_vl" else "phi3"
    data = dataclasses.replace(DATA, template=template, **changes)
    return TurnPrompts(open_chat(data, MODELS[kind]), data, MODELS[kind])


@pytest.mark.parametrize("kind", MODELS)
def test_turns_of_one_shape_whatever_is_in_them(kind):
    made = prompts(kind)
    first = made.first(["a ", 4, " b ", 0, " c ", 8, "which?"], POOL)
    later = [made.later(parts, POOL, ended=True) for parts in (["x ", 1, 7], ["wrong"], [5])]
    blank = made.blank(POOL)
    shapes = [[np.shape(x) for x in jax.tree.leaves(row)] for row in (*later, blank)]
    assert all(shape == shapes[0] for shape in shapes)
    assert blank.length == 0
    assert np.all(blank.visual_index == -1)
    each = np.sum(first.visual_index >= 0) // 3
    assert [int(np.sum(row.visual_index >= 0)) for row in later] == [2 * each, 0, each]
    seen = first.visual_index[first.visual_index >= 0]
    assert len(set(seen.tolist())) == len(seen)
    assert np.all(first.tokens[int(first.length) :] == made.chat.pad_id)
    if kind == "tiny_vit":
        np.testing.assert_array_equal(first.visual.pixels, POOL[[4, 0, 8]])
        np.testing.assert_array_equal(later[2].visual.mask, [True, False])
    else:
        # Each frame is an image: its tokens share a time, text moves on behind it.
        times = first.positions[0][first.visual_index >= 0]
        assert len(set(times.tolist())) == 3


def test_an_answer_that_was_cut_off_is_closed_for_it():
    made = prompts("qwen2_5_vl")
    ended, cut = (made.later(["x"], POOL, ended=end) for end in (True, False))
    count = int(ended.length)
    assert int(cut.length) == count + 1
    assert cut.tokens[0] == made.chat.end_id
    np.testing.assert_array_equal(cut.tokens[1 : count + 1], ended.tokens[:count])


def test_tags_are_read_as_they_were_said():
    made = prompts("tiny_vit")
    said = "<think>a b</think><retrieve>12,20</retrieve>"
    ids = made.ids(said)
    assert ids[-1] == made.chat.end_id
    assert made.chat.decode(ids.tolist()) == said


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["a " * 80, 1], r"data\.prompt_tokens=64; raise it"),
        (["<frame>", 1], "'<frame>' in a question"),
    ],
)
def test_what_does_not_fit(parts, message):
    with pytest.raises(InputError, match=message):
        prompts("tiny_vit").first(parts, POOL)


def test_a_template_without_a_second_turn():
    data = dataclasses.replace(DATA, template="gemma2")
    chat = open_chat(data, VIT)
    with pytest.raises(InputError, match="opens a second turn"):
        TurnPrompts(chat, data, VIT)


def test_the_disc_is_never_in_the_first_look_and_the_bar_is():
    found = set()
    for seed in range(60):
        made = hidden_marks.plan(24, 4, np.random.default_rng(seed))
        shown = set(np.linspace(0, 23, 4).astype(int).tolist())
        assert not shown & set(made.disc)
        assert len(shown & set(made.bar)) == 2
        assert set(made.disc) < set(made.bar)
        found |= set(made.disc)
    assert len(found) > 15


def test_samples_follow_from_their_number(shards):
    source = HiddenMarks(shards, DATA, size=(24, 32), split="train", seed=3)
    one, again = (source.sample(5, frames=12) for _ in range(2))
    bare = source.sample(5, frames=12, pixels=False)
    np.testing.assert_array_equal(one.frames, again.frames)
    assert bare.frames.shape == (12, 0, 0, 3)
    assert (bare.answer, bare.question, bare.options) == (one.answer, one.question, OPTIONS)
    inside = (one.seconds >= one.spans[0, 0]) & (one.seconds <= one.spans[0, 1])
    colour = list(hidden_marks.COLOURS.values())["ABCD".index(one.answer)]
    has = np.all(one.frames == np.asarray(colour, np.uint8), axis=-1).sum(axis=(1, 2)) > 20
    np.testing.assert_array_equal(has, inside)
    assert source.sample(6, frames=12).video == "bikes"


def test_annotated_pools(shards, tmp_path):
    record = {
        "problem_id": 7,
        "problem": "Who?",
        "problem_type": "multiple choice",
        "options": ["A. a", "B. b"],
        "solution": "<answer>B</answer>",
        "path": "./somewhere/bikes.mp4",
        "relevant_windows": [[0.5, 1.0]],
        "data_source": "x",
    }
    path = tmp_path / "set.json"
    records = [record, record | {"path": "no.mp4"}, record | {"solution": "Z"}]
    path.write_text(json.dumps(records))
    data = dataclasses.replace(DATA, annotations=str(path), batch_size=1)
    source = LookedInto(shards, data, size=(24, 32), split="train", seed=0)
    assert len(source) == 1
    assert len(source.skipped) == 2
    assert "2 left out" in source.told()
    sample = source.sample(0, frames=source.bucket(0))
    assert len(sample.frames) <= TURNS.pool
    assert len(sample.frames) % 2 == 0
    assert (sample.answer, sample.kind) == ("B", "multiple choice/x")
    path.write_text(json.dumps(records[1:]))
    with pytest.raises(InputError, match=r"no\.mp4' is not in"):
        LookedInto(shards, data, size=None, split="train", seed=0)
