import numpy as np
import pytest

from tgvlm_jax.data.wordpiece import QuestionTokenizer
from tgvlm_jax.types import InputError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<", ">", "?", "evi", "when", "open", "##s", "door"]


@pytest.fixture
def vocab(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n")
    return path


def pieces(tokenizer, text):
    return " ".join([*PIECES, "[DEC]"][i] for i in tokenizer.ids(text))


def test_pieces(vocab):
    tokenizer = QuestionTokenizer(vocab)
    assert pieces(tokenizer, " WHEN opens Door? ") == "[CLS] when open ##s door ? [SEP]"
    assert pieces(tokenizer, "when <evi> xyz") == "[CLS] when < evi > [UNK] [SEP]"
    assert pieces(tokenizer, "") == "[CLS] [SEP]"
    assert tokenizer.vocab_size == len(PIECES) + 1


def test_a_vocabulary_that_has_the_decoding_piece_does_not_grow(vocab):
    vocab.write_text("\n".join([*PIECES, "[DEC]"]) + "\n")
    assert QuestionTokenizer(vocab).vocab_size == len(PIECES) + 1


def test_long_questions_keep_their_end(vocab):
    tokenizer = QuestionTokenizer(vocab, longest=5)
    assert pieces(tokenizer, "when when opens door ?") == "[CLS] ##s door ? [SEP]"


def test_batches_are_padded_on_the_right(vocab):
    tokenizer = QuestionTokenizer(vocab)
    ids, mask = tokenizer.batch(["when", "opens door"], length=6)
    np.testing.assert_array_equal(ids, [[2, 8, 3, 0, 0, 0], [2, 9, 10, 11, 3, 0]])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
    assert (ids.dtype, mask.dtype) == (np.int32, np.bool_)
    with pytest.raises(InputError, match="5 word pieces does not fit 4: 'opens door'"):
        tokenizer.batch(["opens door"], length=4)


def test_what_is_no_vocabulary(tmp_path, vocab):
    with pytest.raises(InputError, match=r"none\.txt: cannot be read"):
        QuestionTokenizer(tmp_path / "none.txt")
    vocab.write_text("[PAD]\n[UNK]\n[SEP]\nwhen\n")
    with pytest.raises(InputError, match=r"no \[CLS\]"):
        QuestionTokenizer(vocab)
