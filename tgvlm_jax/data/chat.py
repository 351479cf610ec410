"""Chat templates, `<evi>` placement and loss masks: from a sample to token ids.

An answer first grounds and then speaks: K `<evi>`, one `</evi>`, then text that refers to the same
K spans, in the same order, by K more `<evi>` (D2VLM 1.4-1.6).
"""

import dataclasses
import functools
import importlib.resources
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int32
from tokenizers import AddedToken, Tokenizer

from tgvlm_jax.data.wordpiece import LONGEST, QuestionTokenizer
from tgvlm_jax.schema import DataConfig
from tgvlm_jax.types import InputError, Sample

EVIDENCE = "<evi>"
EVIDENCE_END = "</evi>"
FRAME = "<frame>"
_NONE = np.zeros(0, np.int32)
_TINY = Path(str(importlib.resources.files("tgvlm_jax"))) / "assets" / "tiny_tokenizer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """What stands around frames, question and answer; `end` closes the answer and is learned."""

    before: str
    after_frames: str
    after_question: str
    end: str
    pad: str


# As the released code of E.T.Chat and D2VLM has them, which is not always what the makers of the
# language models do (D2VLM 1.4): Llama's headers end with one line break, not two, and its system
# text without a full stop. The first token of the text (BOS) stands where their tokenizers add it.
TEMPLATES = {
    "phi3": Template(
        before="<|system|>\nYou are a helpful AI assistant.<|end|>\n<|user|>\n",
        after_frames="\n",
        after_question="<|end|>\n<|assistant|>\n",
        end="<|end|>",
        pad="<|endoftext|>",
    ),
    "llama3": Template(
        before="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n"
        "You are a helpful AI assistant<|eot_id|>\n<|start_header_id|>user<|end_header_id|>\n",
        after_frames="\n",
        after_question="<|eot_id|>\n<|start_header_id|>assistant<|end_header_id|>\n",
        end="<|eot_id|>",
        pad="<|end_of_text|>",
    ),
    "qwen2": Template(
        before="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        after_frames="\n",
        after_question="<|im_end|>\n<|im_start|>assistant\n",
        end="<|im_end|>",
        pad="<|endoftext|>",
    ),
    "gemma2": Template(
        before="<bos><start_of_turn>user\n",
        after_frames="\n",
        after_question="<end_of_turn>\n<start_of_turn>model\n",
        end="<end_of_turn>",
        pad="<pad>",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sample as ids.

    Attributes:
        prompt: ids with one placeholder a frame. visual_index: the frame in each slot, else -1.
        sources: positions of the question's `<evi>` in `prompt`. question: its word pieces for a
            tower that reads it, none for one that does not.
        response: ids of the answer with its end. evidence: for the i-th `<evi>` of the answer,
            its position in `response`; the first half grounds, the second half refers back.
    """

    prompt: Int32[np.ndarray, "p"]
    visual_index: Int32[np.ndarray, "p"]
    response: Int32[np.ndarray, "t"]
    evidence: Int32[np.ndarray, "e"]
    sources: Int32[np.ndarray, "s"] = dataclasses.field(default_factory=lambda: _NONE)
    question: Int32[np.ndarray, "q"] = dataclasses.field(default_factory=lambda: _NONE)


class Chat:
    """A tokenizer and a template; `pieces` reads the question to a tower that wants it."""

    def __init__(
        self, tokenizer: Tokenizer, template: Template, *, pieces: QuestionTokenizer | None = None
    ):
        self.tokenizer = tokenizer
        self.template = template
        self.pieces = pieces
        self.frame_id = self._id(FRAME)
        self.evidence_id = self._id(EVIDENCE)
        self.pad_id = self._id(template.pad)
        self.end_id = self._id(template.end)

    def _id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise InputError(
                f"the tokenizer has no {token!r}: it is not one for this data.template; set that "
                f"to one of {', '.join(TEMPLATES)}"
            )
        return found

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    @property
    def vocab_size(self) -> int:
        """Rows an embedding needs."""
        return self.tokenizer.get_vocab_size()

    def encode(self, sample: Sample) -> Encoded:
        """Renders a sample; an empty answer gives an empty response, to be generated.

        Raises:
            InputError: the answer does not mention every span exactly twice, first before
                `</evi>` and then after it; the question does not have an `<evi>` for each of
                its sources; or the clips have more or fewer frames than there are.
        """
        check_question(sample)
        check_answer(sample)
        prompt, index = self._prompt(sample)
        answer = self._ids(sample.answer + self.template.end) if sample.answer else []
        response = np.asarray(answer, np.int32)
        pieces = self.pieces.ids(sample.question) if self.pieces else []
        return Encoded(
            prompt=prompt,
            visual_index=index,
            sources=np.flatnonzero(prompt == self.evidence_id).astype(np.int32),
            question=np.asarray(pieces, np.int32),
            response=response,
            evidence=np.flatnonzero(response == self.evidence_id).astype(np.int32),
        )

    def _prompt(self, sample: Sample) -> tuple[Int32[np.ndarray, "p"], Int32[np.ndarray, "p"]]:
        """Ids of the prompt and the frame in each slot; clips are lines, "Clip 1: " and frames."""
        around, counts = self.template, sample.clips or (len(sample.frames),)
        if sum(counts) != len(sample.frames):
            raise InputError(f"{sample.video}: {len(sample.frames)} frames, clips of {counts}")
        if sample.video_first:
            head, tail = around.before, f"{around.after_frames}{sample.question}"
        else:
            head, tail = f"{around.before}{sample.question}{around.after_frames}", ""
        labels = [f"Clip {i}: " if sample.clips else "" for i in range(1, len(counts) + 1)]
        texts = [head + labels[0], *(around.after_frames + label for label in labels[1:])]
        prompt, index, frame = [], [], 0
        for text, count in zip(texts, counts, strict=True):
            words = self._ids(text)
            prompt += [*words, *[self.frame_id] * count]
            index += [*[-1] * len(words), *range(frame, frame + count)]
            frame += count
        words = self._ids(tail + around.after_question)
        prompt, index = [*prompt, *words], [*index, *[-1] * len(words)]
        return np.asarray(prompt, np.int32), np.asarray(index, np.int32)

    def decode(self, ids: Sequence[int]) -> str:
        """Text up to the end token, `<evi>` and `</evi>` kept."""
        ids = list(ids)
        ids = ids[: ids.index(self.end_id)] if self.end_id in ids else ids
        return self.tokenizer.decode(ids, skip_special_tokens=False)


def check_question(sample: Sample) -> None:
    """Raises InputError unless the question points at each of its sources by one `<evi>`."""
    asked, where = sample.question.count(EVIDENCE), f"{sample.video}, {sample.question!r}"
    if asked != len(sample.sources):
        raise InputError(
            f"{where}: {asked} {EVIDENCE} in the question, but {len(sample.sources)} sources"
        )
    if EVIDENCE_END in sample.question:
        raise InputError(f"{where}: {EVIDENCE_END} in the question")


def check_answer(sample: Sample) -> None:
    """Raises InputError unless the evidence of an answer is well formed."""
    if not sample.answer:
        return
    grounding, *texts = sample.answer.split(EVIDENCE_END)
    spans, where = len(sample.spans), f"{sample.video}, {sample.question!r}"
    if not texts and not spans and EVIDENCE not in grounding:
        return
    if len(texts) != 1:
        raise InputError(f"{where}: the answer has {len(texts)} {EVIDENCE_END}, not one")
    for part, name in ((grounding, "before"), (texts[0], "after")):
        if (found := part.count(EVIDENCE)) != spans:
            raise InputError(
                f"{where}: {found} {EVIDENCE} {name} {EVIDENCE_END}, but {spans} spans; "
                "an answer mentions each span once before and once after"
            )


def render(answer: str, spans: Float64[np.ndarray, "e 2"]) -> str:
    """The spoken part of an answer with every `<evi>` replaced by its seconds."""
    grounding, end, text = answer.partition(EVIDENCE_END)
    parts = (text if end else grounding).split(EVIDENCE)
    skip = grounding.count(EVIDENCE) if end else 0
    times = [f"{start:.1f} s to {stop:.1f} s" for start, stop in spans[skip:]]
    times += ["?"] * (len(parts) - 1 - len(times))
    words = [parts[0]] + [time + part for time, part in zip(times, parts[1:], strict=False)]
    return "".join(words).replace(EVIDENCE_END, "").strip()


def open_chat(config: DataConfig) -> Chat:
    """The chat of a config. Raises what `load_chat` raises."""
    return load_chat(
        config.tokenizer,
        config.template,
        question_vocab=config.question_vocab,
        question_tokens=config.question_tokens,
    )


@functools.cache
def load_chat(
    tokenizer: str, template: str, *, question_vocab: str = "", question_tokens: int = LONGEST
) -> Chat:
    """Opens a tokenizer for a template.

    `<evi>`, `</evi>` and `<frame>` are put behind its other tokens where it does not have them, in
    this order, as the released code does (D2VLM 1.4).

    Args:
        tokenizer: a folder in Hugging Face format, or "tiny". template: a name in `TEMPLATES`.
        question_vocab: BERT's vocab.txt for a tower that reads the question, or "tiny"; "" without
            one. question_tokens: longest question in its pieces.

    Raises:
        InputError: no such folder, template, special token or vocabulary.
    """
    if template not in TEMPLATES:
        raise InputError(f"data.template={template!r}: known are {', '.join(TEMPLATES)}")
    folder = _TINY if tokenizer == "tiny" else Path(tokenizer)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"data.tokenizer: {path} is not there; give a Hugging Face folder")
    try:
        loaded = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise InputError(f"{path}: not a tokenizer of the tokenizers library ({error})") from error
    known = (EVIDENCE, EVIDENCE_END, FRAME)
    loaded.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in known])
    pieces = None
    if question_vocab:
        vocab = _TINY / "vocab.txt" if question_vocab == "tiny" else Path(question_vocab)
        pieces = QuestionTokenizer(vocab, longest=question_tokens)
    return Chat(loaded, TEMPLATES[template], pieces=pieces)
