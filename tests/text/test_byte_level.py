"""Bytes of vocabulary entries, against the tokenizers' own byte-level coder."""

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from tgvlm_jax.text.byte_level import token_bytes


@given(st.text())
def test_pieces_add_up_to_the_text(text):
    coder = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = [piece for piece, _ in coder.pre_tokenize_str(text)]
    assert b"".join(token_bytes(pieces)) == text.encode()


def test_every_byte_has_a_character_and_special_tokens_have_none():
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    assert sorted(token_bytes(alphabet)) == [bytes([i]) for i in range(256)]
    assert token_bytes(["a", "<|end|>"], special={"<|end|>"}) == [b"a", b""]
