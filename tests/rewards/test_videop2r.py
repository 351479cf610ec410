"""Rewards of both segments, and which token belongs to which, with real byte-level tokenizers."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tgvlm_jax.rewards import videop2r
from tgvlm_jax.text.byte_level import token_bytes
from tgvlm_jax.types import InputError

SEEN = "<observation>A man opens a door.</observation>"
THOUGHT = "<think>Based on the observations, so.</think>"
SAID = "<answer>B</answer>"
END = "<|end|>"


@pytest.mark.parametrize(
    ("text", "perceived", "reasoned"),
    [
        (SEEN + THOUGHT + SAID, True, True),
        (f"\n{SEEN}\n{THOUGHT}\n{SAID}\n", True, True),
        (SEEN, True, False),
        (THOUGHT + SAID, False, True),
        (SEEN + THOUGHT, True, False),
        (SEEN + SAID, True, False),
        (SEEN + SAID + THOUGHT, True, False),
        (SEEN + "so " + THOUGHT + SAID, True, False),
        (SEEN + THOUGHT + "so " + SAID, True, False),
        (SEEN + THOUGHT + SAID + " so", True, False),
        ("so " + SEEN + THOUGHT + SAID, False, True),
        (SEEN + SEEN + THOUGHT + SAID, False, True),
        ("<observation> \n</observation>" + THOUGHT + SAID, False, True),
        ("<observation>never closed" + THOUGHT + SAID, False, True),
        (SEEN + THOUGHT + THOUGHT + SAID, True, False),
        (SEEN + THOUGHT + SAID + SAID, True, False),
        (SEEN.upper() + THOUGHT + SAID, False, True),
        ("", False, False),
    ],
)
def test_forms(text, perceived, reasoned):
    assert videop2r.perception_form(text) == perceived
    assert videop2r.reasoning_form(text) == reasoned


@pytest.mark.parametrize("text", ["", SAID, "<observation>  </observation>", "<observation>open"])
def test_without_an_observation_there_is_nothing_to_judge(text):
    found = videop2r.perception(text, sufficient=True, tokens=200)
    assert found == {"accuracy": 0, "format": 0, "length": 0}


def test_without_an_answer_nothing_is_right():
    for text in ("", "B", SEEN + THOUGHT, "<answer>B"):
        assert videop2r.reasoning(text, "B", kind="multiple choice", tokens=400)["accuracy"] == 0


@pytest.mark.parametrize(
    ("kind", "said", "truth", "accuracy"),
    [
        ("multiple choice", "B", "<answer>B</answer>", 1),
        ("multiple choice", "b", "B", 0),
        ("numerical", "4.20", "4.2", 1),
        ("OCR", "no entry", "no exit", 0.5),
        ("regression", "8", "10", 0.8),
        ("free-form", "The cats were running", "a cat runs", (2 * 2 / 7 + 0 + 2 * 2 / 7) / 3),
    ],
)
def test_accuracy_goes_by_the_type_of_the_question(kind, said, truth, accuracy):
    text = f"{SEEN}{THOUGHT}<answer> {said}\n</answer>"
    found = videop2r.reasoning(text, truth, kind=kind, tokens=400)
    assert found["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert found["format"] == 1
    assert found["length"] == (0.2 if accuracy else 0)


def test_an_unknown_type_is_said():
    with pytest.raises(InputError, match="no score for 'essay' questions; there are multiple"):
        videop2r.reasoning(SAID, "B", kind="essay", tokens=400)


@pytest.mark.parametrize(("tokens", "reward"), [(127, 0), (128, 0.2), (320, 0.2), (321, 0)])
def test_lengths_of_perception(tokens, reward):
    assert videop2r.perception(SEEN, sufficient=True, tokens=tokens)["length"] == reward
    assert videop2r.perception(SEEN, sufficient=False, tokens=tokens)["length"] == 0
    assert videop2r.perception("so " + SEEN, sufficient=True, tokens=tokens)["length"] == 0


def test_the_rewards_of_the_worked_example():
    """Sums of the three terms: VideoP2R's own numbers, perception and reasoning."""
    formed = (True, True, True, False)
    perceived = [
        sum(
            videop2r.perception(
                SEEN if form else "so " + SEEN, sufficient=right, tokens=length
            ).values()
        )
        for form, right, length in zip(
            formed, (True, False, True, True), (200, 200, 90, 200), strict=True
        )
    ]
    assert perceived == pytest.approx([2.2, 1, 2, 1])
    reasoned = [
        sum(
            videop2r.reasoning(
                f"{THOUGHT}<answer>{said}</answer>", "a b", kind="OCR", tokens=length
            ).values()
        )
        for said, length in (("a b", 400), ("c d", 400), ("a d", 400), ("a b", 600))
    ]
    assert reasoned == pytest.approx([2.2, 1, 1.7, 2])


def test_lengths_of_a_group_of_whole_answers():
    assert videop2r.group_length([1, 0.5, 0.05, 1], [400, 330, 400, 600]) == [0.2, 0.2, 0, 0]
    assert videop2r.group_length([1, 0.05, 0, 0], [400] * 4) == [0] * 4


# Every way to have, lack, repeat or spoil the tags, in texts of one and many bytes.
INSIDE = ("A man opens a door.", "Ein Mann öffnet 🚪 – dann …", "x </ <thin </observe", "")
BETWEEN = ("", "\n", "é")
FORMS = (
    "<observation>{0}</observation>{1}<think>{0}</think>{1}<answer>B</answer>",
    "{1}<observation>{0}</observation>{1}<observation>{0}</observation>{1}<think>{0}</think>",
    "<observation>{0}{1}<think>{0}</think>{1}<answer>B</answer>",
    "{0}{1}<think>{0}</think>{1}</observation>{0}",
    "{0}{1}<answer>B</answer>",
    "<observation>{0}</observation>",
)
TEXTS = [form.format(*parts) for form in FORMS for parts in itertools.product(INSIDE, BETWEEN)]


@pytest.fixture(scope="module", params=[280, 320, 600])
def tokenizer(request):
    """Trained on just these tags, so that its tokens straddle them, more so the larger it is."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=request.param,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS * 3, trainer)
    return made


def segments(tokenizer, text):
    encoded = tokenizer.encode(text + END)
    pieces = token_bytes(encoded.tokens, special={END})
    assert b"".join(pieces) == text.encode()
    return pieces, videop2r.segment_of_tokens(pieces)


def first_character_of_reasoning(text):
    """Straight from the rules, on characters."""
    if "</observation>" in text:
        return text.index("</observation>") + len("</observation>")
    return text.index("<think>") if "<think>" in text else 0


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_of_every_text(tokenizer, text):
    pieces, found = segments(tokenizer, text)
    boundary = len(text[: first_character_of_reasoning(text)].encode())
    start = 0
    for piece, segment in zip(pieces, found, strict=True):
        wanted = videop2r.PERCEPTION if start < boundary else videop2r.REASONING
        assert segment == wanted, (text, piece)
        start += len(piece)
    assert found[-1] == videop2r.REASONING  # the end token
    assert np.all(np.diff(found) >= 0)


def test_there_are_fifty_texts_and_tokens_that_straddle(tokenizer):
    assert len(set(TEXTS)) >= 50
    straddling = 0
    for text in TEXTS:
        pieces, found = segments(tokenizer, text)
        boundary = len(text[: first_character_of_reasoning(text)].encode())
        ends = np.cumsum([len(piece) for piece in pieces])
        starts = ends - [len(piece) for piece in pieces]
        across = (starts < boundary) & (ends > boundary)
        straddling += across.sum()
        np.testing.assert_array_equal(found[across], videop2r.PERCEPTION)
    if tokenizer.get_vocab_size() == 600:
        assert straddling > 0


def test_a_token_across_the_boundary_is_perceptions():
    pieces = [b"<observation>", b"x</observ", b"ation><th", b"ink>", b"y", b""]
    np.testing.assert_array_equal(videop2r.segment_of_tokens(pieces), [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(videop2r.segment_of_tokens([b"ab<thi", b"nk>"]), [0, 1])
    np.testing.assert_array_equal(videop2r.segment_of_tokens([]), [])


@given(st.lists(st.binary(max_size=20)))
def test_any_bytes_are_cut_once(pieces):
    found = videop2r.segment_of_tokens(pieces)
    assert found.shape == (len(pieces),)
    assert np.all(np.diff(found) >= 0)


LETTERS = {"A": "red", "B": "blue", "C": "dark blue"}


@pytest.mark.parametrize(
    ("thought", "letter"),
    [
        ("The answer is B.", "B"),
        ("Could the answer be A? No: the answer must be (C).", "C"),
        ("The answer is A. Wait a second. So, I pick option B.", "B"),
        ("It is red at first, but then it is blue.", "B"),
        ("It is A clear case, and the car is red.", "A"),
        ("The answer is E.", ""),  # no such option
        ("I cannot tell.", ""),
        ("", ""),
    ],
)
def test_what_thoughts_settle_on(thought, letter):
    text = f"{SEEN}<think>{thought}</think><answer>B</answer>"
    assert videop2r.conclusion(text, LETTERS) == letter
    assert videop2r.mismatch(text, LETTERS) == (float(letter != "B") if letter else None)
    assert videop2r.mismatch(text.replace(">B<", ">blue<"), LETTERS) is None
