"""From a sample to token ids: template, videos, `<evi>` and what is learned.

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

from tgvlm_jax.data import patch_videos
from tgvlm_jax.data.patch_videos import PatchVideos, Videos
from tgvlm_jax.data.process_prompt import instruct
from tgvlm_jax.data.templates import TEMPLATES, Template
from tgvlm_jax.data.wordpiece import LONGEST, QuestionTokenizer
from tgvlm_jax.schema import DataConfig, ModelConfig, QwenVisionConfig
from tgvlm_jax.types import InputError, Sample

EVIDENCE = "<evi>"
EVIDENCE_END = "</evi>"
FRAME = "<frame>"
IMAGE = "<|image_pad|>"
_TAGS = ("think", "answer", "retrieve")
TURN_MARKS = (IMAGE, *(f"<{slash}{tag}>" for tag in _TAGS for slash in ("", "/")))
"""What conversations of several turns are made of, for a tokenizer that would spell it else."""
_NONE = np.zeros(0, np.int32)
_TINY = Path(str(importlib.resources.files("tgvlm_jax"))) / "assets" / "tiny_tokenizer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sample as ids.

    Attributes:
        prompt: ids with a placeholder for each visual token, one a frame where the tower takes
            frames. visual_index: which of those tokens stands in a slot, else -1.
        sources: positions of the question's `<evi>` in `prompt`. question: its word pieces for a
            tower that reads it, none for one that does not.
        response: ids of the answer with its end. evidence: for the i-th `<evi>` of the answer,
            its position in `response`; the first half grounds, the second half refers back.
        videos: what a tower is shown that takes patches; None for one that takes frames. Without
            pixels nothing can be shown to it, and the prompt is empty.
    """

    prompt: Int32[np.ndarray, "p"]
    visual_index: Int32[np.ndarray, "p"]
    response: Int32[np.ndarray, "t"]
    evidence: Int32[np.ndarray, "e"]
    sources: Int32[np.ndarray, "s"] = dataclasses.field(default_factory=lambda: _NONE)
    question: Int32[np.ndarray, "q"] = dataclasses.field(default_factory=lambda: _NONE)
    videos: Videos | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Prompt:
    ids: Int32[np.ndarray, "p"]
    visual_index: Int32[np.ndarray, "p"]
    videos: Videos | None = None


class Chat:
    """A tokenizer and a template, and how videos are shown in them."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template,
        *,
        pieces: QuestionTokenizer | None = None,
        videos: PatchVideos | None = None,
        system: str = "",
        instruction: str = "",
        evidence: bool = True,
    ):
        """`pieces` reads the question to a tower that wants it; `videos` is for one of patches.

        `system` is a system text in the place of the template's own, `instruction` a name in
        `process_prompt.INSTRUCTIONS` for what every question is followed by. Without `evidence`,
        for a model that has no heads for it, answers say intervals in words.

        Raises:
            InputError: the tokenizer lacks a special token.
        """
        self.tokenizer = tokenizer
        self.template = template
        self.pieces = pieces
        self.videos = videos
        self.system = system
        self.instruction = instruction
        self.evidence = evidence
        if videos is not None:
            self.video_id = [self._id(token) for token in patch_videos.MARKS][1]
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

    def encode(self, sample: Sample, *, pixels: bool = True) -> Encoded:
        """Renders a sample; an empty answer gives an empty response, to be generated.

        Without `pixels` only the shape of its frames counts, and a tower gets no patches of them.

        Raises:
            InputError: the answer does not mention every span exactly twice, first before
                `</evi>` and then after it; the question does not have an `<evi>` for each of
                its sources; or the clips have more or fewer frames than there are.
        """
        check_question(sample)
        check_answer(sample)
        if self.videos is None:
            prompt = self._frames(sample)
        else:
            prompt = self._patches(sample, self.videos, pixels=pixels)
        said = sample.answer
        if not self.evidence:
            said = render(said, np.concatenate([sample.spans, sample.spans]))
        answer = self._ids(said + self.template.end) if said else []
        response = np.asarray(answer, np.int32)
        pieces = self.pieces.ids(sample.question) if self.pieces else []
        return Encoded(
            prompt=prompt.ids,
            visual_index=prompt.visual_index,
            sources=np.flatnonzero(prompt.ids == self.evidence_id).astype(np.int32),
            question=np.asarray(pieces, np.int32),
            response=response,
            evidence=np.flatnonzero(response == self.evidence_id).astype(np.int32),
            videos=prompt.videos,
        )

    def _texts(self, sample: Sample) -> list[str]:
        """What is said before each clip and behind the last; clips are lines, "Clip 1: " first."""
        around, clips = self.template, sample.clips or (len(sample.frames),)
        if sum(clips) != len(sample.frames):
            raise InputError(f"{sample.video}: {len(sample.frames)} frames, clips of {clips}")
        before = around.before(self.system)
        asked = instruct(sample.question, instruction=self.instruction, kind=sample.kind)
        if sample.video_first:
            head, tail = before, f"{around.after_frames}{asked}"
        else:
            head, tail = f"{before}{asked}{around.after_frames}", ""
        labels = [f"Clip {i}: " if sample.clips else "" for i in range(1, len(clips) + 1)]
        between = [around.after_frames + label for label in labels[1:]]
        return [head + labels[0], *between, tail + around.after_question]

    def _frames(self, sample: Sample) -> _Prompt:
        """A token a frame, or one for all views of a take.

        Each text is encoded alone, as the released code does (D2VLM 1.4).
        """
        *texts, last = map(self._ids, self._texts(sample))
        prompt, index, frame = [], [], 0
        slots = sample.clips or (1 if sample.views is not None else len(sample.frames),)
        for words, count in zip(texts, slots, strict=True):
            prompt += [*words, *[self.frame_id] * count]
            index += [*[-1] * len(words), *range(frame, frame + count)]
            frame += count
        prompt, index = [*prompt, *last], [*index, *[-1] * len(last)]
        return _Prompt(ids=np.asarray(prompt, np.int32), visual_index=np.asarray(index, np.int32))

    def _patches(self, sample: Sample, videos: PatchVideos, *, pixels: bool) -> _Prompt:
        """Videos with their times, and as many tokens as their patches make."""
        if len(sample.sources):
            raise InputError(
                f"{sample.video}, {sample.question!r}: points at intervals, which only a model "
                "with evidence heads understands"
            )
        *texts, last = self._texts(sample)
        if not len(sample.frames):  # nothing is shown: text alone
            ids = np.asarray(self._ids("".join([*texts, last])), np.int32)
            none = np.full(len(ids), -1, np.int32)
            return _Prompt(ids=ids, visual_index=none, videos=Videos(by=videos, seen=()))
        if not sample.frames.size:
            return _Prompt(ids=_NONE, visual_index=_NONE)
        cuts = np.cumsum(sample.clips or (len(sample.frames),))[:-1]
        times = np.split(sample.seconds, cuts)
        if sample.clips:  # each is a video of its own, from its start
            times = [seconds - seconds[0] for seconds in times]
        clips = zip(np.split(sample.frames, cuts), times, strict=True)
        shown = [videos.show(frames, seconds, pixels=pixels) for frames, seconds in clips]
        said = [text + one.text for text, one in zip(texts, shown, strict=True)]
        ids = np.asarray(self._ids("".join([*said, last])), np.int32)
        counts = np.ones(len(ids), np.int64)
        each = [count for one in shown for count in one.tokens]
        places = np.flatnonzero(ids == self.video_id)
        if len(places) != len(each):
            raise InputError(
                f"{sample.video}, {sample.question!r}: {patch_videos.MARKS[1]} in the question"
            )
        counts[places] = each
        visual = np.repeat(ids == self.video_id, counts)
        return _Prompt(
            ids=np.repeat(ids, counts),
            visual_index=np.where(visual, np.cumsum(visual) - 1, -1).astype(np.int32),
            videos=Videos(by=videos, seen=tuple(one.seen for one in shown)),
        )

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


def open_chat(config: DataConfig, model: ModelConfig | None = None) -> Chat:
    """The chat of a config; `model` has a say in how videos and intervals are shown to it.

    Raises what `load_chat` raises.
    """
    videos, tower = None, None if model is None else model.tower
    evidence = model is None or model.evidence is not None
    if isinstance(tower, QwenVisionConfig):
        videos = patch_videos.of_config(tower, config)
    return load_chat(
        config.tokenizer,
        config.template,
        question_vocab=config.question_vocab,
        question_tokens=config.question_tokens,
        system=config.system,
        instruction=config.instruction,
        videos=videos,
        evidence=evidence,
        turns=config.turns is not None,
    )


@functools.cache
def load_chat(
    tokenizer: str,
    template: str,
    *,
    question_vocab: str = "",
    question_tokens: int = LONGEST,
    system: str = "",
    instruction: str = "",
    videos: PatchVideos | None = None,
    evidence: bool = True,
    turns: bool = False,
) -> Chat:
    """Opens a tokenizer for a template.

    `<evi>`, `</evi>` and `<frame>` are put behind its other tokens where it does not have them, in
    this order, as the released code does (D2VLM 1.4).

    Args:
        tokenizer: a folder in Hugging Face format, or "tiny", which is for every template.
        template: a name in `TEMPLATES`.
        question_vocab: BERT's vocab.txt for a tower that reads the question, or "tiny"; "" without
            one. question_tokens: longest question in its pieces.
        system, instruction, videos, evidence: of `Chat`.
        turns: the tokenizer of tiny models gets tokens for what is said in turns.

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
    known = [EVIDENCE, EVIDENCE_END, FRAME]
    if tokenizer == "tiny":
        marks = [*TEMPLATES[template].marks, *(patch_videos.MARKS if videos else ())]
        marks += TURN_MARKS if turns else ()
        known += [token for token in marks if loaded.token_to_id(token) is None]
    loaded.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in known])
    pieces = None
    if question_vocab:
        vocab = _TINY / "vocab.txt" if question_vocab == "tiny" else Path(question_vocab)
        pieces = QuestionTokenizer(vocab, longest=question_tokens)
    return Chat(
        loaded,
        TEMPLATES[template],
        pieces=pieces,
        videos=videos,
        system=system,
        instruction=instruction,
        evidence=evidence,
    )
