"""Several turns: the cache that grows is a full reading, and training reads what was sampled."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny, tiny_qwen
from tgvlm_jax.data import mrope, qwen_patches
from tgvlm_jax.data.qwen_prompt import Bucket, Seen, prompt_row
from tgvlm_jax.models import parameters
from tgvlm_jax.rollout import turns
from tgvlm_jax.rollout.turns import Limits, converse
from tgvlm_jax.schema import SamplingConfig
from tgvlm_jax.types import Frames, InputError, Prompt

PAD, END = 0, 2
LIMITS, SAMPLES, ROWS = Limits(turns=3, tokens=5), 2, 2
WARM = SamplingConfig(temperature=1.4, top_p=0.99)
CONFIGS = {
    "tiny_vit": dataclasses.replace(tiny.CONFIG, evidence=None, two_way_frames=False),
    "qwen2_5_vl": tiny_qwen.CONFIGS["qwen2_5_vl"],
}


def vit_row(seed, *, frames, before, after, length=16, room=4):
    """Text, frames, text."""
    rng = np.random.default_rng(seed)
    count = before + frames + after
    index = np.full(length, -1, np.int32)
    index[before : before + frames] = np.arange(frames)
    tokens = np.where(index >= 0, tiny.FRAME, rng.integers(4, 32, length))
    pixels = rng.integers(0, 256, (room, 24, 32, 3), np.uint8)
    return Prompt(
        visual=Frames(pixels=pixels, mask=np.arange(room) < frames),
        tokens=np.where(np.arange(length) < count, tokens, PAD).astype(np.int32),
        visual_index=index,
        length=np.int32(count),
    )


def qwen_row(seed, *, frames, before, after, length=32, room=4):
    """Images, each of four by two patches with a word before it."""
    rng = np.random.default_rng(seed)
    seen, ids, visual = [], list(rng.integers(4, 60, before)), [False] * before
    for _ in range(frames):
        patches = rng.integers(0, 256, (8, 96), np.uint8)
        item = mrope.image_item(4, 2)
        seen.append(
            Seen(patched=qwen_patches.Patched(patches=patches, grid=(1, 4, 2)), items=(item,))
        )
        ids += [int(rng.integers(4, 60)), *[tiny_qwen.PLACEHOLDER] * 2]
        visual += [False, True, True]
    ids += list(rng.integers(4, 60, after))
    visual += [False] * after
    return prompt_row(
        np.asarray(ids, np.int32),
        np.asarray(visual),
        seen=seen,
        rule=tiny_qwen.RULE,
        bucket=Bucket(length=length, rows=room // 2, slots=16),
        pad_id=PAD,
    )


def blank_of(row):
    """The same shapes, with nothing in them."""
    nothing = jax.tree.map(np.zeros_like, row)
    return dataclasses.replace(nothing, visual_index=np.full_like(row.visual_index, -1))


MAKE = {"tiny_vit": vit_row, "qwen2_5_vl": qwen_row}


@dataclasses.dataclass(frozen=True)
class Talk:
    kind: str
    params: dict
    prompt: Prompt
    shown: dict
    found: turns.Conversations


@functools.cache
def talk(kind, *, keep_features=False, seed=0):
    """Two prompts, two conversations each: one of a turn, one of two, two of three."""
    make, config = MAKE[kind], CONFIGS[kind]
    params = tiny.random_params(config)
    rows = [make(1, frames=4, before=2, after=3), make(2, frames=2, before=1, after=2)]
    prompt = jax.device_put(jax.tree.map(lambda *x: np.stack(x), *rows))
    later = functools.partial(make, length=18, room=2)
    shown = {
        (turn, row): later(10 * turn + row + 5, frames=row % 3, before=1 + row, after=2 + turn)
        for turn in range(2)
        for row in range(4)
    }
    last = (0, 2, 1, 2)  # turn of each conversation

    def reply(turn, said):
        assert [one is not None for one in said] == [turn <= end for end in last]
        return [shown[turn, row] if turn < end else None for row, end in enumerate(last)]

    found = converse(
        params,
        prompt,
        reply,
        blueprint=parameters.blueprint(config),
        limits=LIMITS,
        blank=blank_of(shown[0, 0]),
        end_id=END,
        pad_id=PAD,
        sampling=WARM,
        key=jax.random.key(seed),
        samples=SAMPLES,
        keep_features=keep_features,
    )
    return Talk(kind=kind, params=params, prompt=prompt, shown=shown, found=found)


def log_probs(model, final, tokens):
    logits = model.decoder.logits(final) / WARM.temperature
    return jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), tokens[..., None], 2)[..., 0]


@functools.partial(jax.jit, static_argnames="kind")
def followed(params, prompt, text, kind):
    """The training pass: logits of what follows, and log-probabilities of its tokens."""
    model = parameters.blueprint(CONFIGS[kind]).build(params)
    predicted = model.follow(model.prefill(prompt), text)
    return model.decoder.logits(predicted.final), log_probs(model, predicted.final, text.tokens)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_training_pass_gives_the_log_probabilities_of_the_sampler(kind):
    one = talk(kind)
    own = np.asarray(one.found.own)
    _, again = followed(one.params, one.prompt, one.found.text, kind)
    assert own.sum() > 12
    np.testing.assert_allclose(again[own], one.found.log_probs[own], atol=1e-4)


@functools.partial(jax.jit, static_argnames="kind")
def reread(params, prompt, kind):
    """Logits after every slot of one long prompt, read from nothing."""
    model = parameters.blueprint(CONFIGS[kind]).build(params)
    return model.decoder.logits(model.states(prompt).final)


def joined(one, row):
    """A prompt and what follows it in a conversation, as one prompt without gaps."""
    first = jax.tree.map(lambda x: np.asarray(x)[row // SAMPLES], one.prompt)
    text = jax.tree.map(lambda x: np.asarray(x)[row], one.found.text)
    count, config = int(first.length), CONFIGS[one.kind]
    each = turns.visual_tokens(first, config)
    visual = turns._beside(
        [jax.tree.map(lambda x: x[None], v) for v in (first.visual, text.visual)]
    )
    places = None
    if first.positions is not None:
        base = count + int(first.offset)
        places = np.concatenate([first.positions[:, :count], base + text.positions], axis=1)[None]
    index = np.where(text.visual_index >= 0, text.visual_index + each, -1)
    return Prompt(
        visual=visual,
        tokens=np.concatenate([first.tokens[:count], text.tokens])[None],
        visual_index=np.concatenate([first.visual_index[:count], index])[None],
        length=np.int32([count + text.length]),
        positions=places,
        offset=None if places is None else np.int32([0]),
    )


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_cache_that_grows_says_what_reading_it_all_again_says(kind):
    """Every conversation of the ragged batch, token by token, observations included."""
    one = talk(kind)
    logits, _ = followed(one.params, one.prompt, one.found.text, kind)
    for row in range(ROWS * SAMPLES):
        whole = joined(one, row)
        start = int(one.prompt.length[row // SAMPLES])
        size = int(one.found.text.length[row])
        again = reread(one.params, whole, kind)[0, start - 1 : start - 1 + size]
        np.testing.assert_allclose(logits[row, :size], again, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_trained_on_is_what_was_said_and_shown(kind):
    one = talk(kind)
    found, text = jax.device_get((one.found, one.found.text))
    assert found.ends.sum(axis=1).tolist() == [1, 3, 2, 3]
    assert not np.any(found.ends & ~found.own)
    assert np.all(found.log_probs[~found.own] == 0)
    for row, turn_count in enumerate((1, 3, 2, 3)):
        size = int(text.length[row])
        assert np.all(found.turn[row, size:] == -1)
        observed = (found.turn[row] >= 0) & ~found.own[row]
        wanted = [one.shown[turn, row] for turn in range(turn_count - 1)]
        ids = [token for x in wanted for token in x.tokens[: int(x.length)]]
        assert text.tokens[row][observed].tolist() == ids
        assert np.sum(text.visual_index[row] >= 0) == sum(
            (x.visual_index >= 0).sum() for x in wanted
        )
        for turn in range(turn_count):
            said = text.tokens[row][found.own[row] & (found.turn[row] == turn)]
            assert 1 <= len(said) <= LIMITS.tokens
            assert END not in said[:-1]


def test_features_kept_from_the_rollout_are_those_of_the_frames():
    plain, kept = talk("qwen2_5_vl"), talk("qwen2_5_vl", keep_features=True)
    one, other = (
        followed(x.params, x.prompt, x.found.text, "qwen2_5_vl")[0] for x in (plain, kept)
    )
    np.testing.assert_array_equal(plain.found.text.tokens, kept.found.text.tokens)
    filled = np.asarray(plain.found.turn) >= 0
    np.testing.assert_allclose(one[filled], other[filled], atol=1e-4)


def test_nothing_compiles_for_what_is_said():
    talk("tiny_vit")
    before = turns.answer._cache_size(), turns.observe._cache_size()
    other = talk("tiny_vit", seed=1)
    assert (turns.answer._cache_size(), turns.observe._cache_size()) == before
    assert np.any(other.found.text.tokens != talk("tiny_vit").found.text.tokens)


def test_models_that_see_frames_both_ways_are_refused():
    config = dataclasses.replace(CONFIGS["tiny_vit"], two_way_frames=True)
    with pytest.raises(InputError, match="two_way_frames=False"):
        converse(
            tiny.random_params(config),
            talk("tiny_vit").prompt,
            lambda *_: [],
            blueprint=parameters.blueprint(config),
            limits=LIMITS,
            blank=talk("tiny_vit").shown[0, 0],
            end_id=END,
            pad_id=PAD,
            sampling=WARM,
        )
