import json

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file

from tgvlm_jax.evaluation.similarity import MiniLM, TokenOverlap
from tgvlm_jax.types import InputError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "runs", "cat", "sleeps"]
WIDTH, INNER, HEADS = 8, 16, 2


@pytest.fixture
def checkpoint(tmp_path):
    """The files of all-MiniLM-L6-v2, two layers of 8 channels."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    weights = {"embeddings.position_ids": np.arange(16)}
    for name, rows in (("word", len(WORDS)), ("position", 16), ("token_type", 2)):
        weights[f"embeddings.{name}_embeddings.weight"] = draw(rows, WIDTH)
    norms = ["embeddings.LayerNorm"]
    for layer in range(2):
        at = f"encoder.layer.{layer}."
        shapes = {f"attention.self.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")}
        shapes |= {"attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (INNER, WIDTH)}
        shapes |= {"output.dense": (WIDTH, INNER)}
        for name, shape in shapes.items():
            weights[f"{at}{name}.weight"], weights[f"{at}{name}.bias"] = (
                draw(*shape),
                draw(shape[0]),
            )
        norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
    for name in norms:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = draw(WIDTH), draw(WIDTH)
    save_file(weights, tmp_path / "model.safetensors")
    config = {"num_attention_heads": HEADS, "layer_norm_eps": 1e-12}
    (tmp_path / "config.json").write_text(json.dumps(config))
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    model = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_embeddings_do_not_depend_on_their_batch(checkpoint):
    texts = ["a dog", "a cat sleeps a cat sleeps", "dog"]
    together = MiniLM.load(checkpoint).embed(texts)
    alone = np.concatenate([MiniLM.load(checkpoint).embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=-1), 1, rtol=1e-6)


def test_pairs(checkpoint):
    model = MiniLM.load(checkpoint)
    same, other = model.pairs(["a dog", "a dog"], ["a dog", "cat sleeps"])
    assert same == pytest.approx(1, abs=1e-6)
    assert other < 0.9999
    assert model.pairs([], []).shape == (0,)
    with pytest.raises(InputError, match="as many texts"):
        model.pairs(["a"], [])


def test_order_of_words_matters(checkpoint):
    model = MiniLM.load(checkpoint)
    assert model.pairs(["dog runs cat"], ["cat runs dog"])[0] < 0.9999


def test_damaged_checkpoint(checkpoint):
    (checkpoint / "model.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="no sentence encoder can be read there"):
        MiniLM.load(checkpoint)


def test_token_overlap():
    found = TokenOverlap().pairs(["A dog runs.", "x", ""], ["a dog sleeps", "y", ""])
    np.testing.assert_allclose(found, [2 / 3, 0, 0])
    assert "not comparable" in TokenOverlap().name
