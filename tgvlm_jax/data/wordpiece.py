"""The word pieces that a Q-Former reads: BERT's, lower-cased, long questions cut on their left."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from tgvlm_jax.types import InputError

LONGEST = 256
_NEEDED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# Of InstructBLIP; no question has it, but the released table of embeddings has its row.
_DECODE = "[DEC]"


class QuestionTokenizer:
    """Questions -> padded ids for a Q-Former (D2VLM 1.3).

    The text is the user's message without the place of the video; `<evi>` stays in it as text.
    """

    def __init__(self, vocab: Path, *, longest: int = LONGEST):
        """Reads a `vocab.txt`, one piece a line.

        Raises:
            InputError: the file is missing, or lacks BERT's special pieces.
        """
        try:
            pieces = set(vocab.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{vocab}: cannot be read ({error}); give BERT's vocab.txt") from error
        missing = [piece for piece in _NEEDED if piece not in pieces]
        if missing:
            raise InputError(f"{vocab}: no {', '.join(missing)}; give the vocab.txt of a BERT")
        bert = BertWordPieceTokenizer(str(vocab), lowercase=True)
        bert.add_special_tokens([_DECODE])
        # Only the plain class can cut on the left.
        self._tokenizer = Tokenizer.from_str(bert.to_str())
        self._tokenizer.enable_truncation(longest, direction="left")
        self.longest = longest
        self.pad = self._tokenizer.token_to_id("[PAD]")

    @property
    def vocab_size(self) -> int:
        """Rows that the Q-Former's table of words needs."""
        return self._tokenizer.get_vocab_size()

    def ids(self, question: str) -> list[int]:
        """Ids of one question, `[CLS]` and `[SEP]` around it, its end kept where it is too long."""
        return self._tokenizer.encode(question.strip()).ids

    def batch(
        self, questions: Sequence[str], *, length: int
    ) -> tuple[Int32[np.ndarray, "b length"], Bool[np.ndarray, "b length"]]:
        """Ids padded on the right to `length` (a bucket), and which of them are there.

        Raises:
            InputError: a question that is longer than the bucket.
        """
        ids = np.full((len(questions), length), self.pad, np.int32)
        mask = np.zeros((len(questions), length), bool)
        for row, question in enumerate(questions):
            found = self.ids(question)
            if len(found) > length:
                raise InputError(
                    f"question of {len(found)} word pieces does not fit {length}: {question[:60]!r}"
                )
            ids[row, : len(found)], mask[row, : len(found)] = found, True
        return ids, mask
