"""A sentence encoder of a few words; suites on files that a test writes."""

import json

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file

from tgvlm_jax.evaluation.etbench_captioning import CaptionScorers
from tgvlm_jax.evaluation.similarity import TokenOverlap
from tgvlm_jax.evaluation.suites import open_suite

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


@pytest.fixture
def opened(tmp_path):
    """Opens a suite on annotation files that are written for it; .jsonl gets a record a line."""

    def write_and_open(benchmark, **files):
        paths = []
        for name, content in files.items():
            stem, _, suffix = name.partition("__")
            path = tmp_path / f"{stem}.{suffix or 'json'}"
            lines = "\n".join(json.dumps(row) for row in content) if suffix else None
            path.write_text(lines if lines is not None else json.dumps(content))
            paths.append(path)
        return open_suite(benchmark, paths)

    return write_and_open


@pytest.fixture
def scored():
    """Scores answers, without what compares captions."""
    scorers = CaptionScorers(similarity=TokenOverlap(), metrics=None)

    def score(suite, answers, scoring=None):
        return suite.score(answers, scoring=scoring, scorers=scorers)

    return score
