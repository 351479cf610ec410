"""Texts with frames among them -> the arrays that a model reads, turn by turn (Video-MTR 1.5).

Every frame is an image of its own, which only the number printed before it orders. The first turn
has one shape and all later ones another, whatever is said and shown in them.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, UInt8

from tgvlm_jax.data import mrope, patch_videos, qwen_patches, qwen_rows
from tgvlm_jax.data.chat import FRAME, IMAGE, Chat
from tgvlm_jax.data.qwen_patches import PatchRule
from tgvlm_jax.data.qwen_prompt import Bucket, Seen, prompt_row
from tgvlm_jax.schema import DataConfig, ModelConfig, QwenVisionConfig
from tgvlm_jax.types import Frames, InputError, Prompt

Pool = UInt8[np.ndarray, "f y x 3"]


class TurnPrompts:
    """A chat in which frames stand among the words."""

    def __init__(self, chat: Chat, config: DataConfig, model: ModelConfig):
        """Raises InputError where the chat cannot be gone on with, or the model cannot see it."""
        assert config.turns is not None, "checked: the experiment has data.turns"
        self.chat, self.config, self.model, self.turns = chat, config, model, config.turns
        if not chat.template.user:
            raise InputError(
                f"data.template={config.template!r} has no mark that opens a second turn; take "
                "another one"
            )
        if chat.pieces is not None:
            raise InputError("a tower that reads the question is not for several turns")
        mark = FRAME if chat.videos is None else IMAGE
        found = chat.tokenizer.token_to_id(mark)
        if found is None:
            raise InputError(f"the tokenizer has no {mark!r}, which frames among words need")
        self.mark_id = found
        start, _, end = patch_videos.MARKS
        self.mark = mark if chat.videos is None else start + mark + end

    def first(self, parts: Sequence[str | int], pool: Pool, *, system: str = "") -> Prompt:
        """The prompt of a conversation, one row; whole numbers in `parts` are frames of the pool.

        Raises:
            InputError: more tokens or patches than the config has room for.
        """
        before = self.chat.template.before(self.config.system or system)
        room = self.config.prompt_tokens
        return self._row(before, parts, pool, frames=self.turns.first, length=room)

    def later(self, parts: Sequence[str | int], pool: Pool, *, ended: bool) -> Prompt:
        """What follows an answer, one row; an answer that was cut off has not `ended` itself.

        Raises what `first` raises.
        """
        template = self.chat.template
        before = ("" if ended else template.end) + "\n" + template.user
        room = self.turns.tokens
        return self._row(before, parts, pool, frames=self.turns.each, length=room)

    def blank(self, pool: Pool) -> Prompt:
        """An observation of nothing."""
        nothing, room = np.zeros(0, np.int32), self.turns.tokens
        return self._laid(nothing, pool[:0], frames=self.turns.each, length=room)

    def ids(self, text: str) -> Int32[np.ndarray, "t"]:
        """An answer, with the token that ends it."""
        said = self.chat.tokenizer.encode(text + self.chat.template.end, add_special_tokens=False)
        return np.asarray(said.ids, np.int32)

    def _row(
        self, before: str, parts: Sequence[str | int], pool: Pool, *, frames: int, length: int
    ) -> Prompt:
        shown = [part for part in parts if isinstance(part, int)]
        said = "".join(part if isinstance(part, str) else self.mark for part in parts)
        text = before + said + self.chat.template.after_question
        ids = self.chat.tokenizer.encode(text, add_special_tokens=False).ids
        found = np.asarray(ids, np.int32)
        if np.sum(found == self.mark_id) != len(shown):
            raise InputError(f"{self.mark!r} in a question or an answer: {said[:80]!r}")
        return self._laid(found, pool[shown], frames=frames, length=length)

    def _laid(
        self, ids: Int32[np.ndarray, "t"], shown: Pool, *, frames: int, length: int
    ) -> Prompt:
        if self.chat.videos is not None:
            return self._patches(ids, shown, frames=frames, length=length)
        visual = ids == self.mark_id
        self._check(len(ids), length)
        size = self.model.frame_size
        assert size is not None, "of towers, only Qwen-VL's take frames of all sizes"
        pixels = np.zeros((frames, *size, 3), np.uint8)
        pixels[: len(shown)] = shown
        empty = length - len(ids)
        index = np.where(visual, np.cumsum(visual) - 1, -1).astype(np.int32)
        return Prompt(
            visual=Frames(pixels=pixels, mask=np.arange(frames) < len(shown)),
            tokens=np.pad(ids, (0, empty), constant_values=self.chat.pad_id),
            visual_index=np.pad(index, (0, empty), constant_values=-1),
            length=np.int32(len(ids)),
        )

    def _patches(
        self, ids: Int32[np.ndarray, "t"], shown: Pool, *, frames: int, length: int
    ) -> Prompt:
        videos, tower = self.chat.videos, self.model.tower
        assert videos is not None
        assert isinstance(tower, QwenVisionConfig)
        rule = videos.rule
        patched = [qwen_patches.image_patches(one, rule=rule) for one in shown]
        counts = np.ones(len(ids), np.int64)
        counts[ids == self.mark_id] = [
            qwen_rows.token_count(one.grid, rule=rule) for one in patched
        ]
        visual, ids = np.repeat(ids == self.mark_id, counts), np.repeat(ids, counts)
        self._check(len(ids), length)
        slots = patch_videos.bucket_of(tower, self.config).slots
        if not len(ids):
            return _nothing(frames, slots, length, self.chat.pad_id, rule)
        largest = max((math.prod(one.grid) for one in patched), default=0)
        if largest > slots:
            raise InputError(
                f"a frame of {largest} patches, but data.patch_slots={slots}; raise it, or lower "
                "data.max_pixels"
            )
        return prompt_row(
            ids,
            visual,
            seen=[Seen(patched=one, items=(mrope.image_item(*one.grid[1:]),)) for one in patched],
            rule=rule,
            bucket=Bucket(length=length, rows=frames, slots=slots),
            pad_id=self.chat.pad_id,
            tokens_per_second=tower.tokens_per_second,
        )

    def _check(self, count: int, length: int) -> None:
        if count > length:
            key = "data.turns.tokens" if length == self.turns.tokens else "data.prompt_tokens"
            raise InputError(f"a turn of {count} tokens, but {key}={length}; raise it")


def _nothing(rows: int, slots: int, length: int, pad_id: int, rule: PatchRule) -> Prompt:
    return Prompt(
        visual=qwen_rows.to_rows([], rule=rule, rows=rows, slots=slots).rows,
        tokens=np.full(length, pad_id, np.int32),
        visual_index=np.full(length, -1, np.int32),
        length=np.int32(0),
        positions=np.zeros((3, length), np.int32),
        offset=np.int32(0),
    )
