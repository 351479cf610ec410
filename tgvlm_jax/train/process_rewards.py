"""The rewards of a group of answers segment by segment, and which token is whose (VideoP2R 4, 5).

    tokens -> text, segments -> a judge's verdicts -> named terms -> one reward a segment

Of an answer's text up to its end token. A segment's length is in tokens; the end token is one of
reasoning's. A judge that fails costs an answer its perception's accuracy, is counted, and says why.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, Int32

from tgvlm_jax.data.chat import Chat
from tgvlm_jax.judges import judge as judge_lib
from tgvlm_jax.judges.judge import Case, Judge, Verdict
from tgvlm_jax.rewards import answers, videop2r
from tgvlm_jax.rewards.videop2r import PERCEPTION, REASONING, Lengths
from tgvlm_jax.schema import ProcessConfig
from tgvlm_jax.text.byte_level import token_bytes
from tgvlm_jax.types import InputError, Sample

SEGMENTS = ("perception", "reasoning")
MULTIPLE_CHOICE = "multiple choice"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processed:
    """One answer.

    Attributes:
        rewards: of perception and reasoning. segments: which of them each token belongs to.
        terms: what the rewards are made of, tokens of each segment, and "mismatch", which is not a
            number where thoughts or answer settle on no option.
        failure: of the judge; "" for none.
    """

    rewards: Float[np.ndarray, "s"]
    segments: Int32[np.ndarray, "t"]
    terms: Mapping[str, float]
    failure: str = ""


class ProcessRewards:
    """Rewards the answers to one prompt."""

    def __init__(self, config: ProcessConfig, *, chat: Chat, judge: Judge):
        """Raises InputError unless the tokenizer's vocabulary is byte-level."""
        self.config, self.end_id, self.judge = config, chat.end_id, judge
        self.pieces = vocabulary_bytes(chat)
        least, most = config.perception_tokens
        self.perception = Lengths(least=least, most=most)
        least, most = config.reasoning_tokens
        self.reasoning = Lengths(least=least, most=most)

    def __call__(
        self, tokens: Int[np.ndarray, "g t"], texts: Sequence[str], sample: Sample
    ) -> list[Processed]:
        """`texts` are what the tokens say; the truth is that of the sample, whose kind is the
        question's type.

        Raises:
            InputError: a type of question that has no score.
        """
        truth = answers.answer_text(right := sample.truth or sample.answer, default=right)
        verdicts = self._judge(texts, truth, sample)
        segments = [self.segments(row) for row in tokens]
        lengths = [self._lengths(*pair) for pair in zip(tokens, segments, strict=True)]
        named = judge_lib.options(sample.question) if sample.kind == MULTIPLE_CHOICE else {}
        rows = []
        for text, verdict, (seen, thought) in zip(texts, verdicts, lengths, strict=True):
            one, two = self.perception, self.reasoning
            parts = (
                videop2r.perception(text, sufficient=verdict.sufficient, tokens=seen, lengths=one),
                videop2r.reasoning(text, truth, kind=sample.kind, tokens=thought, lengths=two),
            )
            found = videop2r.mismatch(text, named) if named else None
            terms = {
                f"{segment}_{name}": value
                for segment, part in zip(SEGMENTS, parts, strict=True)
                for name, value in part.items()
            }
            told = {"perception_tokens": float(seen), "reasoning_tokens": float(thought)}
            rows.append(terms | told | {"mismatch": float("nan") if found is None else found})
        self._reward_lengths(rows)
        return [
            Processed(rewards=_rewards(row), segments=segment, terms=row, failure=verdict.failure)
            for row, segment, verdict in zip(rows, segments, verdicts, strict=True)
        ]

    def segments(self, tokens: Int[np.ndarray, "t"]) -> Int32[np.ndarray, "t"]:
        """PERCEPTION or REASONING for each token; what stands behind the end is reasoning's."""
        count = self._count(tokens)
        known, ids = len(self.pieces), tokens[:count].tolist()
        # A model may have more rows than its tokenizer has tokens; those say nothing.
        pieces = [self.pieces[token] if token < known else b"" for token in ids]
        found = np.full(len(tokens), REASONING, np.int32)
        found[:count] = videop2r.segment_of_tokens(pieces)
        return found

    def _count(self, tokens: Int[np.ndarray, "t"]) -> int:
        """Tokens of an answer, its end included."""
        ends = np.flatnonzero(tokens == self.end_id)
        return int(ends[0]) + 1 if len(ends) else len(tokens)

    def _lengths(
        self, tokens: Int[np.ndarray, "t"], segments: Int32[np.ndarray, "t"]
    ) -> tuple[int, int]:
        own = segments[: self._count(tokens)]
        return int((own == PERCEPTION).sum()), int((own == REASONING).sum())

    def _judge(self, texts: Sequence[str], truth: str, sample: Sample) -> list[Verdict]:
        """Of what was observed; where nothing was, nobody is asked. Alike ones are asked once."""
        observed = [videop2r.observation(text) for text in texts]
        asked = sorted({one for one in observed if one})
        cases = [Case(question=sample.question, answer=truth, observation=one) for one in asked]
        found = dict(zip(asked, self.judge(cases) if cases else [], strict=True))
        return [found.get(one, Verdict(sufficient=False)) for one in observed]

    def _reward_lengths(self, rows: Sequence[dict[str, float]]) -> None:
        """Takes the rewards of lengths back where the config wants others."""
        if self.config.length == "segment":
            return
        for row in rows:
            row["perception_length"] = row["reasoning_length"] = 0.0
        if self.config.length == "group":
            given = videop2r.group_length(
                [row["reasoning_accuracy"] for row in rows],
                [int(row["perception_tokens"] + row["reasoning_tokens"]) for row in rows],
                lengths=self.reasoning,
            )
            for row, value in zip(rows, given, strict=True):
                row["reasoning_length"] = value


def _rewards(terms: Mapping[str, float]) -> Float[np.ndarray, "s"]:
    names = ("accuracy", "format", "length")
    return np.array([sum(terms[f"{segment}_{n}"] for n in names) for segment in SEGMENTS])


def vocabulary_bytes(chat: Chat) -> list[bytes]:
    """What each id stands for; an added token for its own text, the end of an answer for nothing.

    Raises:
        InputError: the vocabulary is not byte-level.
    """
    tokenizer = chat.tokenizer
    added, found = tokenizer.get_added_tokens_decoder(), []
    for number in range(tokenizer.get_vocab_size()):
        token = tokenizer.id_to_token(number)
        if token is None or number == chat.end_id:
            found.append(b"")
        elif number in added:
            found.append(token.encode())
        else:
            try:
                found += token_bytes([token])
            except KeyError:
                raise InputError(
                    f"data.tokenizer: {token!r} is no token of a byte-level vocabulary, which "
                    "rewards of segments need; Qwen's and the tiny one have it"
                ) from None
    return found
