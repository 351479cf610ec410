"""D2VLM's way from pixels and question to one token a frame, against the published PyTorch code."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.golden import d2vlm_sizes
from tests.golden.published import Loaded, cases, channels_last
from tgvlm_jax.data import pixels, wordpiece
from tgvlm_jax.models.compressor import FrameEncoder
from tgvlm_jax.types import Text
from tgvlm_jax.weights import eva, qformer

PIXELS, LAYERS, TOKENS = 1e-6, 1e-5, 5e-5


def configured(folder):
    return d2vlm_sizes.tower(json.loads((folder / "config.json").read_text()))


@pytest.fixture(scope="module")
def loaded_from():
    return {}


@pytest.fixture
def encoder(suite, loaded_from):
    if suite not in loaded_from:
        config = configured(suite)
        published = load_file(suite / "model.safetensors")
        tensors = eva.tensors(config.eva, prefix=eva.D2VLM, ours="eva.")
        tensors += qformer.compressor_tensors(config.compressor, ours="compressor.")
        loaded = Loaded(lambda **made: FrameEncoder(config, **made), tensors, published)
        vision = {n for n in published if "vision_tower" in n or "qformer" in n}
        assert vision - loaded.names == {"model.qformer_bert.bert.embeddings.position_ids"}
        loaded_from[suite] = loaded
    return loaded_from[suite]


@pytest.fixture
def recorded(suite):
    return cases(suite / "vision.npz")


@pytest.fixture
def described(suite):
    return json.loads((suite / "vision.json").read_text())


def test_pixels(suite, recorded, described):
    side = configured(suite).eva.image
    for case in described["pixel_cases"]:
        arrays = recorded[case["key"]]
        got = pixels.clip_pixels(arrays["raw"], side, normalisation=pixels.CLIP)
        wanted = np.moveaxis(arrays["out"], 1, -1)
        np.testing.assert_allclose(got, wanted, atol=PIXELS, rtol=0, err_msg=case["key"])


def test_word_pieces(suite, recorded, described):
    tokenizer = wordpiece.QuestionTokenizer(suite / "text" / "qformer_vocab.txt")
    assert tokenizer.vocab_size == configured(suite).compressor.qformer.vocab_size
    for case in described["encode_cases"]:
        for sample, questions in enumerate(case["query"]):
            arrays = recorded[case["key"]]
            length = arrays[f"s{sample}.text_ids"].shape[1]
            ids, mask = tokenizer.batch(questions, length=length)
            np.testing.assert_array_equal(ids, arrays[f"s{sample}.text_ids"])
            np.testing.assert_array_equal(mask, arrays[f"s{sample}.text_mask"])


@pytest.fixture
def turns(recorded, described):
    """Every turn of every sample: frames and text padded to one shape, and what is recorded."""
    found = []
    for case in described["encode_cases"]:
        arrays, start = recorded[case["key"]], 0
        for sample, count in enumerate(case["frames"]):
            own = {k[3:]: v for k, v in arrays.items() if k.startswith(f"s{sample}.")}
            rows = slice(start, start + count)
            start += count
            for turn in range(len(own["text_ids"])):
                one = {name: value[turn] for name, value in own.items()}
                found.append(one | {"pixels": arrays["pixels"][rows], "eva": arrays["eva"][rows]})
    return found


def padded(rows):
    """Arrays of different first length as one, zeros behind."""
    out = np.zeros((len(rows), max(map(len, rows)), *rows[0].shape[1:]), rows[0].dtype)
    for row, value in zip(out, rows, strict=True):
        row[: len(value)] = value
    return out


def text_of(turns):
    ids, mask = (padded([turn[name] for turn in turns]) for name in ("text_ids", "text_mask"))
    return Text(ids=ids, mask=mask.astype(bool))


def pixels_of(turns):
    return channels_last(padded([turn["pixels"] for turn in turns]))


def test_tower(encoder, turns):
    got = encoder.run(lambda model, frames: model.eva(frames), pixels_of(turns))
    for tokens, turn in zip(got, turns, strict=True):
        wanted = turn["eva"]
        np.testing.assert_allclose(tokens[: len(wanted)], wanted, atol=LAYERS, rtol=1e-5)


def test_qformer(encoder, turns):
    def run(model, patches, text):
        compressor = model.compressor
        queries = compressor.queries[...]
        queries = jnp.broadcast_to(queries, (*patches.shape[:2], *queries.shape))
        return compressor.qformer(queries, compressor.image_norm(patches), text=text)

    got = encoder.run(run, padded([turn["eva"][:, 1:] for turn in turns]), text_of(turns))
    for states, turn in zip(got, turns, strict=True):
        asked = turn["qformer_query_out"]
        frames, queries = asked.shape[:2]
        np.testing.assert_allclose(states[:frames, :queries], asked, atol=LAYERS, rtol=1e-5)
        if "qformer_text_out" in turn:
            there = np.flatnonzero(turn["text_mask"])
            text = states[:frames, queries + there]
            np.testing.assert_allclose(
                text, turn["qformer_text_out"][:, there], atol=LAYERS, rtol=1e-5
            )


def test_frame_tokens(encoder, turns):
    got = encoder.run(lambda model, *given: model(*given), pixels_of(turns), text_of(turns))
    for tokens, turn in zip(got, turns, strict=True):
        wanted = turn["frame_tokens"]
        np.testing.assert_allclose(tokens[: len(wanted)], wanted, atol=TOKENS, rtol=1e-5)


def test_frame_tokens_of_the_training_samples(suite, encoder):
    named = json.loads((suite / "sft.json").read_text())["samples"]
    turns = []
    with np.load(suite / "sft.npz") as arrays:
        for sample in named:
            turn = {k: arrays[sample["key"] + k] for k in ("text_ids", "frame_tokens")}
            clip = arrays[f"video.{sample['video']}"]
            side = configured(suite).eva.image
            shown = pixels.clip_pixels(clip, side, normalisation=pixels.CLIP)
            turn |= {
                "pixels": np.moveaxis(shown, -1, 1),
                "text_mask": np.ones(len(turn["text_ids"])),
            }
            turns.append(turn)
    got = encoder.run(lambda model, *given: model(*given), pixels_of(turns), text_of(turns))
    for tokens, turn in zip(got, turns, strict=True):
        wanted = turn["frame_tokens"]
        np.testing.assert_allclose(tokens[: len(wanted)], wanted, atol=TOKENS, rtol=1e-5)
