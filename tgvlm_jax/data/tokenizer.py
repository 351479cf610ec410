"""Trains the small byte-level BPE tokenizer of the tiny models, stored in Hugging Face format.

    python -m tgvlm_jax.data.tokenizer tgvlm_jax/assets/tiny_tokenizer

makes the one that the library ships, from the sentences that the pretext tasks can ask and answer.
"""

import json
import re
import string
import sys
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tgvlm_jax.data.chat import EVIDENCE, EVIDENCE_END, FRAME, TEMPLATES

VOCAB_SIZE = 512
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

    return [TEMPLATES["phi3"].before, *sentences()]


def save_tiny(folder: Path) -> None:
    """Writes what the library ships."""
    save(train_tokenizer(tiny_corpus()), folder)
    pieces = question_pieces(tiny_corpus())
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")


if __name__ == "__main__":
    save_tiny(Path(sys.argv[1]))
