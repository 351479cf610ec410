"""Prompts of Qwen-VL models from samples: what they say, where patches stand, what fits."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.data.test_pipeline import sample
from tgvlm_jax.data import patch_videos, qwen_patches
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.data.collate import collate
from tgvlm_jax.schema import DataConfig, ModelConfig, presets
from tgvlm_jax.types import InputError

QWEN3, QWEN2_5 = presets.QWEN3_VL_TINY, presets.QWEN2_5_VL_TINY
MODELS = {"qwen3_vl": QWEN3, "qwen2_5_vl": QWEN2_5}
CONFIG = DataConfig(
    template="qwen3",
    frames=(6,),
    min_pixels=8 * 16,
    max_pixels=16 * 24,
    prompt_tokens=160,
    response_bucket=8,
)
# A tower of patches of 4 pixels sees 16 x 24 of 20 x 30 pixels, 6 tokens for a pair of frames.
PAIR = "<|vision_start|>" + "<|video_pad|>" * 6 + "<|vision_end|>"


def film(count, *, clips=(), rate=2.0, size=(20, 30), **more):
    rng = np.random.default_rng(count)
    return dataclasses.replace(
        sample(frames=count, spans=0, answer="3-5", **more),
        frames=rng.integers(0, 256, (count, *size, 3), np.uint8),
        seconds=np.arange(count) / rate,
        clips=clips,
    )


def said(chat, one):
    return chat.tokenizer.decode(chat.encode(one).prompt.tolist(), skip_special_tokens=False)


def batch_of(samples, model, config=CONFIG, **more):
    chat = open_chat(config, model)
    encoded = [chat.encode(one) for one in samples]
    return collate(samples, encoded, config=config, pad_id=chat.pad_id, **more)


# ------------------------------------------------------------------------------------ texts


def test_qwen3_reads_the_time_of_every_pair_of_frames():
    chat = open_chat(CONFIG, QWEN3)
    assert said(chat, film(5)) == (
        f"<|im_start|>user\n<0.2 seconds>{PAIR}<1.2 seconds>{PAIR}<2.0 seconds>{PAIR}\nWhy?"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert said(chat, film(2, video_first=False)) == (
        f"<|im_start|>user\nWhy?\n<0.2 seconds>{PAIR}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_qwen2_5_sees_a_video_as_one_item():
    config = dataclasses.replace(CONFIG, template="qwen2", system="Look.")
    chat = open_chat(config, QWEN2_5)
    pads = "<|video_pad|>" * 18
    assert said(chat, film(5)) == (
        "<|im_start|>system\nLook.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        f"{pads}<|vision_end|>\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_pair_may_be_said_to_last_a_second():
    """What Video-R1 trains with: times 0, 2, 4 whatever the rate."""
    config = dataclasses.replace(CONFIG, template="qwen2")
    times = {}
    for seconds in (0.0, 1.0):
        made = batch_of(
            [film(6, rate=1.0)], QWEN2_5, dataclasses.replace(config, grid_seconds=seconds)
        )
        rows = made.prompt.positions[0, 0][made.prompt.visual_index[0] >= 0]
        times[seconds] = sorted(set((rows - rows.min()).tolist()))
    assert times[1.0] == [0, 2, 4]
    assert times[0.0] == [0, 4, 8]


def test_every_clip_is_a_video_from_its_start():
    chat = open_chat(CONFIG, QWEN3)
    assert said(chat, film(6, clips=(4, 2))) == (
        f"<|im_start|>user\nClip 1: <0.2 seconds>{PAIR}<1.2 seconds>{PAIR}\n"
        f"Clip 2: <0.2 seconds>{PAIR}\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )
    encoded = chat.encode(film(6, clips=(4, 2)))
    assert [one.patched.grid for one in encoded.videos.seen] == [(2, 4, 6), (1, 4, 6)]


def test_only_the_answer_is_learned():
    batch = batch_of([film(4)], QWEN3)
    chat = open_chat(CONFIG, QWEN3)
    learned = batch.response.tokens[batch.response.mask].tolist()
    assert learned[-1] == chat.end_id
    assert chat.decode(learned) == "3-5"


def test_intervals_are_said_in_words():
    """There are no evidence heads; what is learned is text on the clock of the stamps."""
    one = dataclasses.replace(
        film(4), answer="<evi></evi> From <evi> it rains.", spans=np.array([[0.5, 1.25]])
    )
    batch = batch_of([one], QWEN3)
    learned = batch.response.tokens[batch.response.mask].tolist()
    assert open_chat(CONFIG, QWEN3).decode(learned) == "From 0.5 s to 1.2 s it rains."
    assert not batch.response.evidence_mask.any()
    assert np.all(batch.response.evidence == -1)
    unasked = open_chat(CONFIG, QWEN3).encode(dataclasses.replace(one, answer=""))
    assert unasked.response.size == 0


# ----------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("kind", MODELS)
def test_every_placeholder_shows_its_own_patches(kind):
    """Through rows and back: the patches behind each slot are those cut out of the frames."""
    model = MODELS[kind]
    samples = [film(6, clips=(4, 2)), film(5), film(3, size=(30, 20))]
    batch = batch_of(samples, model)
    rule = open_chat(CONFIG, model).videos.rule
    tall, wide = qwen_patches.video_size(5, 20, 30, rule=rule)
    assert (tall, wide) == (16, 24)
    for row, one in enumerate(samples):
        cuts = np.cumsum(one.clips or (len(one.frames),))[:-1]
        wanted = np.concatenate(
            [
                qwen_patches.video_patches(part, rule=rule).patches
                for part in np.split(one.frames, cuts)
            ]
        )
        patches = batch.prompt.visual.patches[row].reshape(-1, 4, wanted.shape[-1])
        index = batch.prompt.visual_index[row]
        found = patches[index[index >= 0]].reshape(-1, wanted.shape[-1])
        np.testing.assert_array_equal(found, wanted)


def test_times_are_positions_for_qwen2_5():
    """Half a second between frames, so a second between pairs: two positions."""
    for rate, steps in ((2.0, [0, 2, 4]), (1.0, [0, 4, 8])):
        batch = batch_of([film(6, rate=rate)], QWEN2_5)
        at = batch.prompt.positions[0, 0][batch.prompt.visual_index[0] >= 0]
        assert (at[::6] - at[0]).tolist() == steps
    # Qwen3-VL's move on with the text alone.
    batch = batch_of([film(6)], QWEN3)
    times = batch.prompt.positions[0, 0]
    slots = np.flatnonzero(batch.prompt.visual_index[0] >= 0)
    assert all(len(set(times[slots[k : k + 6]])) == 1 for k in range(0, 18, 6))


@pytest.mark.parametrize("kind", MODELS)
def test_all_prompts_of_a_run_have_one_shape(kind):
    """Whatever the frames, their size, the question; so that nothing compiles twice."""
    model = MODELS[kind]
    different = [film(2), film(6, clips=(4, 2)), film(5, size=(40, 12), question="When? " * 5)]
    shapes = {
        tuple(leaf.shape for leaf in jax.tree.leaves(batch_of([one], model).prompt))
        for one in different
    }
    assert len(shapes) == 1
    bucket = patch_videos.bucket_of(model.tower, CONFIG)
    assert (bucket.rows, bucket.slots, bucket.length) == (3, 24, 160)
    # Clips of three frames have two pairs each.
    odd = dataclasses.replace(CONFIG, tasks=("jigsaw",), jigsaw_clips=(3, 2))
    assert patch_videos.bucket_of(model.tower, odd).rows == 4
    changed = dataclasses.replace(CONFIG, patch_rows=2, patch_slots=48)
    assert batch_of([film(6)], model, changed).prompt.visual.patches.shape == (1, 2, 48, 96)


def test_a_host_makes_its_rows_without_the_frames_of_others():
    samples = [film(4), film(6), film(3), film(2)]
    whole = batch_of(samples, QWEN3)
    blind = [dataclasses.replace(one, frames=one.frames[:, :0, :0]) for one in samples]
    mine = batch_of([*blind[:2], *samples[2:]], QWEN3, rows=slice(2, 4))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[2:]), mine, whole)


# ---------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"prompt_tokens": 40},
            r"film, 'Why\?': .* \d+ tokens, but data\.prompt_tokens=40; raise",
        ),
        ({"patch_rows": 2}, r"3 rows of 24 patches, but data\.patch_rows=2; raise it, or lower"),
        ({"patch_slots": 16}, r"a frame of 4 x 6 patches, but data\.patch_slots=16; raise it"),
    ],
)
def test_what_does_not_fit_names_the_setting(change, says):
    with pytest.raises(InputError, match=says):
        batch_of([film(6)], QWEN3, dataclasses.replace(CONFIG, **change))


def test_placeholders_and_pointers_in_a_question():
    chat = open_chat(CONFIG, QWEN3)
    with pytest.raises(InputError, match=r"<\|video_pad\|> in the question"):
        chat.encode(film(2, question="Is <|video_pad|> a token?"))
    with pytest.raises(InputError, match="only a model with evidence heads"):
        chat.encode(film(2, question="After <evi>?", sources=1))


def test_a_tokenizer_without_the_marks_of_vision(tmp_path):
    chat = open_chat(dataclasses.replace(CONFIG, template="qwen3"))
    chat.tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = dataclasses.replace(CONFIG, tokenizer=str(tmp_path))
    assert open_chat(config).videos is None
    with pytest.raises(InputError, match=r"no '<\|vision_start\|>'"):
        open_chat(config, QWEN3)


def test_settings_that_cannot_be():
    for change in ({"min_pixels": 0}, {"min_pixels": 500}, {"patch_rows": -1}):
        with pytest.raises(InputError, match=r"min_pixels|patch_rows"):
            dataclasses.replace(CONFIG, **change)
    with pytest.raises(InputError, match="set evidence to None"):
        ModelConfig(tower=QWEN3.tower, decoder=QWEN3.decoder)


def test_sizes_to_decode_at():
    seen = {"model": QWEN3, "config": CONFIG}
    assert patch_videos.shown_size(720, 1280, **seen) == (8, 24)
    assert patch_videos.shown_size(1280, 720, **seen) == (24, 8)
    assert patch_videos.shown_size(720, 1280, model=ModelConfig(), config=CONFIG) == (48, 64)
