"""Trains the small byte-level BPE tokenizer of the tiny models, stored in Hugging Face format.

    python -m tgvlm_jax.data.tokenizer tgvlm_jax/assets/tiny_tokenizer

makes the one that the library ships, from the sentences that anomaly grounding can ask and answer
and then, in what is left of the vocabulary, from the longer questions of VideoSSR's tasks.
"""

import collections
import itertools
import json
import re
import string
import sys
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tgvlm_jax.data.chat import EVIDENCE, EVIDENCE_END, FRAME
from tgvlm_jax.data.templates import TEMPLATES
from tgvlm_jax.schema import ANOMALY_KINDS

VOCAB_SIZE = 512
TINY_SIZE = 504  # leaves rows for the special tokens of another template, and of patches
_QUESTION_MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
_TURNS = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")


def train_tokenizer(corpus: Iterable[str], *, vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """A byte-level BPE with the special tokens of the Phi-3 template and of evidence.

    Turn markers swallow the white space to their right, as Phi-3's do, so that a template reads
    naturally and costs no newline tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, rstrip=True) for token in _TURNS]
    special += [
        AddedToken(token, special=True, normalized=False)
        for token in (FRAME, EVIDENCE, EVIDENCE_END)
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def extend(tokenizer: Tokenizer, corpus: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """The same tokenizer with more merges behind its own, so that a corpus gets shorter.

    What was one token a word before stays so, under the same id. Numbers get none: a digit is a
    token, whatever the examples in the corpus are.
    """
    state = json.loads(tokenizer.to_str())
    vocab, merges = state["model"]["vocab"], state["model"]["merges"]
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    found = collections.Counter(word for text in corpus for word, _ in split(text))
    counts = {word: n for word, n in found.items() if not any(map(str.isdigit, word))}
    parts = {word: [token.value for token in tokenizer.model.tokenize(word)] for word in counts}
    while len(vocab) < vocab_size:
        pairs = collections.Counter()
        for word, tokens in parts.items():
            for pair in itertools.pairwise(tokens):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(list(best))
        vocab["".join(best)] = len(vocab)
        parts = {word: _merged(tokens, best) for word, tokens in parts.items()}
    return Tokenizer.from_str(json.dumps(state))


def _merged(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the folder that `transformers.AutoTokenizer.from_pretrained` loads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": TEMPLATES["phi3"].pad,
        "eos_token": TEMPLATES["phi3"].end,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def question_pieces(corpus: Iterable[str]) -> list[str]:
    """BERT's word pieces for a Q-Former of a tiny model: the words of a corpus, then letters."""
    words = sorted({word for text in corpus for word in re.findall(r"[a-z]{2,}", text.lower())})
    letters = [*string.ascii_lowercase, *string.digits]
    pieces = [*_QUESTION_MARKS, *string.punctuation, *letters, *(f"##{x}" for x in letters)]
    return [*pieces, *words]


def tiny_corpus() -> list[str]:
    """Every sentence of the tiny models' world, turn texts included."""
    from tgvlm_jax.data.pretext import sentences

    return [TEMPLATES["phi3"].before(), *sentences()]


def pretext_corpus() -> list[str]:
    """What the three tasks of VideoSSR ask, each task alike often; answers are digits."""
    from tgvlm_jax.data import pretext_tasks

    anomalies = [pretext_tasks.anomaly_question(kind) for kind in ANOMALY_KINDS]
    count, order = pretext_tasks.counting_question(), pretext_tasks.jigsaw_question(6)
    return [*anomalies, *[count, order, "\nClip 1: " * 6] * (len(anomalies) // 3)]


def tiny_tokenizer() -> Tokenizer:
    """The one that the library ships."""
    return extend(train_tokenizer(tiny_corpus()), pretext_corpus(), vocab_size=TINY_SIZE)


def save_tiny(folder: Path) -> None:
    """Writes what the library ships."""
    save(tiny_tokenizer(), folder)
    pieces = question_pieces(tiny_corpus())
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")


if __name__ == "__main__":
    save_tiny(Path(sys.argv[1]))
