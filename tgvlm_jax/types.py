"""The data types that cross module borders, and the one table of shape letters.

Shape letters, the same in every annotation of the library:

    b batch    g group sample   t text position   f frame    p patch    e evidence slot
    v view     d width          h heads           k head size           n vocabulary
    y x        pixel rows and columns             c colour channel (RGB)

Time is always float seconds on the container's own clock, counted from the start of the
container as a player shows it; frame indices are integers into a sampled frame list. The only
conversions between the two are in `tgvlm_jax.grounding.spans`.
"""

import dataclasses
from typing import Annotated, Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float64, UInt8

from tgvlm_jax.errors import InputError as InputError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One grounded question about one clip, before any tokenizer has seen it.

    Attributes:
        frames: the clip, at the size that the vision tower takes, or at any where it takes all.
        seconds: when each frame is shown.
        duration: where the clip ends, in seconds on the same clock.
        question: text with one `<evi>` for each of `sources`.
        answer: text with one `<evi>` for every mention of a span; "" where it is to be generated.
        spans: (start, end) seconds, in the order in which the answer first mentions them.
        video: id of the video. kind: what sort of question it is, for tables.
        sources: (start, end) seconds that the question asks about.
        video_first: whether the video stands before the question.
        readable: false where the frames could not be read; nothing is learned from such a sample.
        clips: where the video is shown as several clips, how many frames each has, in the order
            of `frames`; () for one clip. `seconds` run on through them.
        truth: the right answer alone, where `answer` says how it was found, too; "" where `answer`
            is it.
        views: of a take, in the place of `frames`, which then have no pixels; of this sample alone,
            so without a leading `b`.
        options: of a multiple choice, each begins with its letter, which is the answer.
    """

    frames: UInt8[np.ndarray, "f y x 3"]
    seconds: Float64[np.ndarray, "f"]
    duration: float
    question: str
    answer: str
    spans: Float64[np.ndarray, "e 2"]
    video: str
    kind: str
    sources: Float64[np.ndarray, "s 2"] = dataclasses.field(
        default_factory=lambda: np.zeros((0, 2))
    )
    video_first: bool = True
    readable: bool = True
    clips: tuple[int, ...] = ()
    truth: str = ""
    views: "Views | ViewFeatures | None" = None
    options: tuple[str, ...] = ()


def pytree(cls: type[T]) -> type[T]:
    """Registers a dataclass whose fields are all arrays (or trees of them) with JAX.

    Such fields are annotated `Annotated[Any, "dtype shape"]`: inside transforms they hold tracers,
    shardings or nothing at all, so the shape is said and not checked there.
    """
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    names = [field.name for field in fields]
    return jax.tree_util.register_dataclass(cls, data_fields=names, meta_fields=[])


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """What a Q-Former is asked, the same for all frames of a sample, padded on the right.

    Attributes:
        ids: word pieces. mask: true on those that are there.
        positions: in the text; 0, 1, 2, ... where None.
    """

    ids: Annotated[Any, "int32 b t"]
    mask: Annotated[Any, "bool b t"]
    positions: Annotated[Any, "int32 b t | None"] = None


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Frames:
    """Frames of one size, one visual token each.

    Attributes:
        pixels: RGB, padded to the frame bucket. mask: true on real frames.
        question: for a tower that reads it (D2VLM 1.3), else None.
    """

    pixels: Annotated[Any, "uint8 b f y x 3"]
    mask: Annotated[Any, "bool b f"]
    question: Annotated[Any, "Text | None"] = None


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchRows:
    """Images and videos of any size, as `f` rows of `p` patch slots (`data/qwen_rows.py`).

    A row holds one or several whole frames (temporal patches), since frames do not see each other.

    Attributes:
        patches: each flat as (channel, frame, y, x); uint8 pixels, or floats that are normalised
            already. Empty slots are zero.
        coordinates: row and column of a patch in its frame.
        frames, windows: which frame and which window of it a patch belongs to, numbered within
            the sample (all samples of a packed row), -1 for empty slots; without windows both are
            the same.
        table: where in the table of learned positions a patch lies, in rows and columns of the
            table; zero without one.
    """

    patches: Annotated[Any, "uint8 b f p c"]
    coordinates: Annotated[Any, "int32 b f p 2"]
    frames: Annotated[Any, "int32 b f p"]
    windows: Annotated[Any, "int32 b f p"]
    table: Annotated[Any, "float32 b f p 2"]


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """Clips of one take seen from several places at the same time.

    Attributes:
        clips: RGB; those of missing views mean nothing. mask: true on views that are there.
    """

    clips: Annotated[Any, "uint8 b v f y x 3"]
    mask: Annotated[Any, "bool b v"]


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewFeatures:
    """What a frozen encoder has made of Views: one vector for each (ProfVLM 2.1)."""

    vectors: Annotated[Any, "float b v d"]
    mask: Annotated[Any, "bool b v"]


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """What a tower has made of Frames or PatchRows (`VideoLanguageModel.see`).

    Attributes:
        tokens: of the decoder's width. deepstack: those added after the decoder's first layers
            (Qwen3-VL), else None. mask: real frames, where each has one token, else None.
    """

    tokens: Annotated[Any, "float b u d"]
    deepstack: Annotated[Any, "float b m u d | None"] = None
    mask: Annotated[Any, "bool b f | None"] = None


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """Spans that a question asks about by `<evi>` (D2VLM 1.6).

    Attributes:
        slots: the span that the `<evi>` at a position of the prompt means, else -1.
        spans: (first, last) frame, both inside; see `Response.spans`.
    """

    slots: Annotated[Any, "int32 b p"]
    spans: Annotated[Any, "float32 b e 2"]


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed:
    """Several samples in one row, one after another (`tgvlm_jax.data.packing`).

    Attributes:
        segments: which sample of its row a slot belongs to, from 0; padding is with the last one.
        places: the slot's number within the prompt, or the answer, of its sample; 0 for padding.
        ends: of answers, where the prompt of a token's sample has its last slot; None of prompts.
    """

    segments: Annotated[Any, "int32 b t"]
    places: Annotated[Any, "int32 b t"]
    ends: Annotated[Any, "int32 b t | None"] = None


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """All that stands before the answer: system text, frames, question.

    Attributes:
        visual: what the tower sees, Frames, PatchRows or Views, or what it has seen, Features or
            ViewFeatures; None for text alone.
        tokens: ids, right-padded; a visual token's slot holds the placeholder id.
        visual_index: which of the tower's tokens stands in a slot, -1 for text and padding.
        length: filled slots of each row.
        positions: time, row and column of each slot (M-RoPE); None counts slots.
        offset: what the position of what follows is ahead of `length`; None without `positions`,
            and where each of a row's samples has its own.
        sources: spans that the question points at; None for none in the whole batch.
        packed: which samples share a row; None where each has its own.
    """

    visual: Annotated[Any, "Frames | PatchRows | Views | Features | ViewFeatures | None"]
    tokens: Annotated[Any, "int32 b p"]
    visual_index: Annotated[Any, "int32 b p"]
    length: Annotated[Any, "int32 b"]
    positions: Annotated[Any, "int32 b 3 p | None"] = None
    offset: Annotated[Any, "int32 b | None"] = None
    sources: Annotated[Any, "Sources | None"] = None
    packed: Annotated[Any, "Packed | None"] = None


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Response:
    """An answer with its evidence.

    Every occurrence of `<evi>` fills one slot. Where K spans are grounded first and then referred
    to, slots k and K + k are the two occurrences of span k (K is padded to the batch).

    Attributes:
        tokens: ids, right-padded. mask: true on tokens of the answer, its end included.
        evidence: the slot that the `<evi>` at this position fills, else -1.
        spans: (first, last) frame of each slot, both inside, as annotated: it may be fractional,
            reversed or beyond the clip. What is fed back rounds, orders and clamps it (D2VLM 1.6).
        evidence_mask: slots that are filled.
        packed: as of the prompt.
    """

    tokens: Annotated[Any, "int32 b t"]
    mask: Annotated[Any, "bool b t"]
    evidence: Annotated[Any, "int32 b t"]
    spans: Annotated[Any, "float32 b e 2"]
    evidence_mask: Annotated[Any, "bool b e"]
    packed: Annotated[Any, "Packed | None"] = None


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples ready for a supervised step."""

    prompt: Prompt
    response: Response


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceBatch:
    """Prompts with an answer that is preferred and one that is not (D2VLM 3).

    Attributes:
        response: the preferred one, which supervised terms are taken of, too.
        scored, rejected_scored: tokens whose log-probabilities are compared.
    """

    prompt: Prompt
    response: Response
    rejected: Response
    scored: Annotated[Any, "bool b t"]
    rejected_scored: Annotated[Any, "bool b t"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions:
    """Prompts to be answered, and how to know a good answer.

    Attributes:
        prompt: arrays. samples: what each row of this host asks, with its truth, without pixels.
    """

    prompt: Prompt
    samples: tuple[Sample, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pools:
    """Questions to be looked into turn by turn, with all of their candidate frames.

    Attributes:
        samples: what each row of this host asks; `frames` are its pool.
    """

    samples: tuple[Sample, ...]
