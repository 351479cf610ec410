import json
import pathlib

import pytest

import tgvlm_jax
from tgvlm_jax.data import pretext
from tgvlm_jax.data.chat import load_chat
from tgvlm_jax.data.tokenizer import (
    TINY_SIZE,
    VOCAB_SIZE,
    extend,
    pretext_corpus,
    save_tiny,
    tiny_corpus,
    train_tokenizer,
)

SHIPPED = pathlib.Path(tgvlm_jax.__file__).parent / "assets" / "tiny_tokenizer"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "new"
    save_tiny(folder)
    return folder


def test_shipped_files_are_what_training_gives(trained):
    """Whoever changes a sentence of the tiny world makes its tokenizer again."""
    for path in SHIPPED.iterdir():
        assert (trained / path.name).read_bytes() == path.read_bytes(), (
            f"{path.name} has drifted: python -m tgvlm_jax.data.tokenizer {SHIPPED}"
        )
    assert {path.name for path in trained.iterdir()} == {path.name for path in SHIPPED.iterdir()}


def test_special_tokens_are_single_and_keep_their_neighbours():
    tokenizer = load_chat("tiny", "phi3").tokenizer
    for token in ("<frame>", "<evi>", "</evi>", "<|end|>", "<|user|>"):
        assert len(tokenizer.encode(token).ids) == 1
    assert tokenizer.encode("a <evi> b").tokens == ["a", "Ġ", "<evi>", "Ġ", "b"]
    assert tokenizer.encode("<|user|>\n a").ids == tokenizer.encode("<|user|>a").ids


def test_vocabulary_size_is_kept():
    assert train_tokenizer(["a b c"] * 3, vocab_size=300).get_vocab_size() <= 300


def test_more_merges_leave_what_was_there(trained):
    before = train_tokenizer(tiny_corpus())
    after = load_chat("tiny", "phi3").tokenizer
    for text in [*tiny_corpus(), "<|user|>\n<frame><evi></evi>"]:
        assert after.encode(text).ids == before.encode(text).ids
    for text in pretext_corpus():
        assert len(after.encode(text).ids) < 0.7 * len(before.encode(text).ids)
        assert after.decode(after.encode(text).ids) == text
    assert after.get_vocab_size() == TINY_SIZE
    # What is one token already cannot be merged any further.
    again = extend(before, ["video"] * 9, vocab_size=VOCAB_SIZE)
    assert before.encode("video").tokens != ["video"]
    assert again.encode("video").tokens == ["video"]
    assert again.get_vocab_size() < VOCAB_SIZE


@pytest.mark.parametrize("answer", ["3.3-6.7", "14.5-26.2", "4,2,7", "13,1,16", "312465", "234561"])
def test_every_digit_of_an_answer_is_a_token(answer):
    """Also of those that stand as examples in the questions."""
    tokenizer = load_chat("tiny", "phi3").tokenizer
    encoded = tokenizer.encode(answer)
    assert encoded.tokens == list(answer)
    assert tokenizer.decode(encoded.ids) == answer
    inside = tokenizer.encode(f"Answer with numbers, as in {answer}.").tokens
    assert inside[-len(answer) - 1 :] == [*answer, "."]


def test_transformers_reads_it(monkeypatch):
    """Same ids, with the network out of reach."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(SHIPPED, local_files_only=True)
    ours = load_chat("tiny", "phi3")
    texts = [*tiny_corpus(), *pretext.sentences(), *pretext_corpus()]
    for text in [*texts, "Tür 🐇 <frame><evi></evi>\n<|end|>\nx"]:
        ids = ours.tokenizer.encode(text, add_special_tokens=False).ids
        assert theirs(text, add_special_tokens=False).input_ids == ids
        assert theirs(text).input_ids == ids
        # The white space that a turn marker swallows is gone for both.
        assert theirs.decode(ids) == ours.tokenizer.decode(ids, skip_special_tokens=False)
    assert theirs.pad_token_id == ours.pad_id
    assert theirs.eos_token_id == ours.end_id
    assert json.loads((SHIPPED / "tokenizer.json").read_text())["model"]["type"] == "BPE"
