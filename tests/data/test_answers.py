"""What is read from generated ids by a model that has no evidence heads."""

import numpy as np
import pytest

from tgvlm_jax.data import answers
from tgvlm_jax.data.chat import load_chat
from tgvlm_jax.schema import DataConfig
from tgvlm_jax.types import Sample

CHAT = load_chat("tiny", "phi3")
SAMPLE = Sample(
    frames=np.zeros((4, 0, 0, 3), np.uint8),
    seconds=np.arange(4.0),
    duration=4.0,
    question="When?",
    answer="",
    spans=np.zeros((0, 2)),
    video="a",
    kind="asked",
)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("From 1.0 s to 2.5 s and then 3.0 s to 4.0 s.", [[1.0, 2.5], [3.0, 4.0]]),
        ("0.5-1.5", [[0.5, 1.5]]),
        ("4,2,7", []),
        ("", []),
    ],
)
def test_intervals_in_words_are_spans(text, spans):
    ids = CHAT.tokenizer.encode(f"{text}<|end|> 7.0-8.0", add_special_tokens=False).ids
    said = answers.read(np.asarray(ids), None, sample=SAMPLE, chat=CHAT, config=DataConfig())
    np.testing.assert_array_equal(said.spans, np.reshape(spans, (-1, 2)))
    np.testing.assert_array_equal(said.mentions, said.spans)
    assert said.text == text
    assert len(said.places) == 0
