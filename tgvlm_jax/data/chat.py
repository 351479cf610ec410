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
from tokenizers import Tokenizer

from tgvlm_jax.types import InputError, Sample

EVIDENCE = "<evi>"
EVIDENCE_END = "</evi>"
FRAME = "<frame>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """What stands around frames, question and answer; `end` closes the answer and is learned."""

    before: str
    after_frames: str
    after_question: str
    end: str
    pad: str


TEMPLATES = {
    "phi3": Template(
        before="<|system|>\nYou are a helpful AI assistant.<|end|>\n<|user|>\n",
        after_frames="\n",
        after_question="<|end|>\n<|assistant|>\n",
        end="<|end|>",
        pad="<|endoftext|>",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sample as ids.

    Attributes:
        prompt: ids with one placeholder a frame. visual_index: the frame in each slot, else -1.
        response: ids of the answer with its end. evidence: for the i-th `<evi>` of the answer,
            its position in `response`; the first half grounds, the second half refers back.
    """

    prompt: Int32[np.ndarray, "p"]
    visual_index: Int32[np.ndarray, "p"]
    response: Int32[np.ndarray, "t"]
    evidence: Int32[np.ndarray, "e"]


class Chat:
    """A tokenizer and a template."""

    def __init__(self, tokenizer: Tokenizer, template: Template):
        self.tokenizer = tokenizer
        self.template = template
        self.frame_id = self._id(FRAME)
        self.evidence_id = self._id(EVIDENCE)
        self.pad_id = self._id(template.pad)
        self.end_id = self._id(template.end)
        self._before = self._ids(template.before)

    def _id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise InputError(f"the tokenizer has no {token!r}; add it as a special token")
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
                `</evi>` and then after it.
        """
        check_answer(sample)
        text = self._ids(f"{self.template.after_frames}{sample.question}")
        text += self._ids(self.template.after_question)
        count = len(sample.frames)
        prompt = [*self._before, *[self.frame_id] * count, *text]
        index = np.full(len(prompt), -1, np.int32)
        index[len(self._before) : len(self._before) + count] = np.arange(count)
        response = self._ids(sample.answer + self.template.end) if sample.answer else []
        evidence = [i for i, token in enumerate(response) if token == self.evidence_id]
        return Encoded(
            prompt=np.asarray(prompt, np.int32),
            visual_index=index,
            response=np.asarray(response, np.int32),
            evidence=np.asarray(evidence, np.int32),
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Text up to the end token, `<evi>` and `</evi>` kept."""
        ids = list(ids)
        ids = ids[: ids.index(self.end_id)] if self.end_id in ids else ids
        return self.tokenizer.decode(ids, skip_special_tokens=False)


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


@functools.cache
def load_chat(tokenizer: str, template: str) -> Chat:
    """The chat of a config: `tokenizer` is a folder in Hugging Face format, or "tiny".

    Raises:
        InputError: no such folder, template or special token.
    """
    if template not in TEMPLATES:
        raise InputError(f"data.template={template!r}: known are {', '.join(TEMPLATES)}")
    shipped = importlib.resources.files("tgvlm_jax") / "assets" / "tiny_tokenizer"
    folder = Path(str(shipped)) if tokenizer == "tiny" else Path(tokenizer)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"data.tokenizer: {path} is not there; give a Hugging Face folder")
    try:
        loaded = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise InputError(f"{path}: not a tokenizer of the tokenizers library ({error})") from error
    return Chat(loaded, TEMPLATES[template])
