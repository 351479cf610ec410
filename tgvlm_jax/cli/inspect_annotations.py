"""What is in an annotation file: tables, what a model is given of a record, and what is wrong."""

import collections
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tgvlm_jax.data import annotations
from tgvlm_jax.data.annotated import reasons
from tgvlm_jax.data.annotations import Annotation, Annotations, Filters
from tgvlm_jax.data.chat import FRAME, Chat, load_chat, open_chat
from tgvlm_jax.data.collate import frame_ranges
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.schema import DataConfig, Experiment, FpoConfig, SftConfig
from tgvlm_jax.types import InputError, Sample

_BARS = " ▁▂▃▄▅▆▇█"
_WIDE = 100


def run(path: Path, *, experiment: Experiment | None, shards: str | None, record: int) -> int:
    """Prints what a file holds; 1 if a record is bad, else 0.

    Args:
        path: E.T. Instruct JSON. experiment: whose filters and template count, by default the
            released ones. shards: where the videos must be, if given.
        record: which good record is rendered.

    Raises:
        InputError: the file is no annotation file, or has no such record.
    """
    data = experiment.data if experiment else DataConfig(fps=1.0, times="points", max_events=64)
    found = annotations.load(path, filters=_filters(data))
    bad = {one.where: one.reason for one in found.rejected}
    usable = found.kept
    if shards is not None:
        unusable = reasons(open_shards(shards), data, found.kept)
        bad |= unusable
        usable = [one for one in found.kept if one.where not in unusable]
    print(_table(path, found, usable, bad))
    if usable:
        if not 0 <= record < len(usable):
            raise InputError(f"--record {record}: there are {len(usable)} good ones, 0 the first")
        objective = experiment.objective if experiment else SftConfig()
        objective = objective if isinstance(objective, SftConfig | FpoConfig) else SftConfig()
        chat = open_chat(data) if experiment else load_chat("tiny", "phi3")
        print(f"\n{rendered(usable[record], chat=chat, data=data, alpha=objective.alpha)}")
    if bad:
        print(f"\n{len(bad)} bad records:")
        print("\n".join(f"  {where}: {reason}" for where, reason in bad.items()))
    return 1 if bad else 0


def _filters(data: DataConfig) -> Filters:
    return Filters(words=data.max_words, shortest=data.min_seconds, longest=data.max_seconds)


def _table(path: Path, found: Annotations, usable: list[Annotation], bad: Mapping[str, str]) -> str:
    """Counts by task, then what was left out."""
    total = len(found.kept) + len(found.rejected) + sum(found.filtered.values())
    lines = [f"{path}: {total} records, {len(usable)} to train on"]
    wide = max([8, *(len(one.task) + 1 for one in usable)])
    if usable:
        lines += [
            "",
            f"{'task':<{wide}}{'records':>9}{'videos':>9}{'spans':>8}{'asked':>8}{'seconds':>9}",
        ]
    tasks: dict[str, list[Annotation]] = collections.defaultdict(list)
    for one in usable:
        tasks[one.task].append(one)
    for task, ones in sorted(tasks.items()):
        spans, asked = (
            np.mean([len(getattr(one, key)) for one in ones]) for key in ("spans", "sources")
        )
        videos, seconds = len({one.video for one in ones}), np.mean([one.duration for one in ones])
        about = f"{task:<{wide}}{len(ones):>9}{videos:>9}{spans:>8.1f}{asked:>8.1f}"
        lines.append(about + ("" if np.isnan(seconds) else f"{seconds:>9.1f}"))
    lines += [""] if found.filtered or bad else []
    lines += [f"left out, {reason}: {count}" for reason, count in found.filtered.items()]
    lines += [f"left out, bad: {len(bad)}"] if bad else []
    return "\n".join(lines)


def rendered(one: Annotation, *, chat: Chat, data: DataConfig, alpha: float) -> str:
    """The prompt and the answer of a record as a model gets them, and its frame targets.

    Args:
        one: the record. chat: tokenizer and template. data: rate and conventions of the frames.
        alpha: base of the soft targets, 0 for hard ones.
    """
    sample = _sample(one, data)
    encoded = chat.encode(sample)
    frames = len(sample.frames)
    prompt = chat.tokenizer.decode(encoded.prompt.tolist(), skip_special_tokens=False)
    prompt = prompt.replace(FRAME * frames, f"{FRAME} x {frames}")
    answer = chat.tokenizer.decode(encoded.response.tolist(), skip_special_tokens=False)
    lasts = "unknown length" if np.isnan(one.duration) else f"{one.duration:g} s"
    lines = [
        f"{one.where}: {one.task}, {one.video}, {lasts}",
        f"prompt, {len(encoded.prompt)} tokens, not learned:",
        _indented(prompt),
        f"answer, {len(encoded.response)} tokens, all learned:",
        _indented(answer),
    ]
    ranges = frame_ranges(sample.sources, sample, data).astype(np.float32)
    for number, (first, last) in enumerate(ranges.tolist()):
        seconds = "{:g} s to {:g} s".format(*sample.sources[number])
        lines.append(f"question's <evi> {number + 1}: {seconds}, frames {first:g} to {last:g}")
    ranges = frame_ranges(sample.spans, sample, data).astype(np.float32)
    count = len(ranges)
    for number, (first, last) in enumerate(ranges.tolist()):
        seconds = "{:g} s to {:g} s".format(*sample.spans[number])
        lines.append(
            f"answer's <evi> {number + 1} and {number + 1 + count}: {seconds}, frames {first:g} to "
            f"{last:g} of {frames}"
        )
        lines.append(_bars(_targets(ranges[number], frames, alpha)))
    return "\n".join(lines)


def _sample(one: Annotation, data: DataConfig) -> Sample:
    """The record with frames at the wanted rate, without pixels; as many as fit if unknown."""
    lasts = max(data.frames) / data.fps if np.isnan(one.duration) else one.duration
    seconds = np.arange(0.0, lasts, 1 / data.fps)
    most = max(data.frames) if len(data.frames) > 1 else len(seconds)
    if len(seconds) > most:
        seconds = seconds[np.linspace(0, len(seconds) - 1, most).round().astype(int)]
    return Sample(
        frames=np.zeros((len(seconds), 0, 0, 3), np.uint8),
        seconds=seconds,
        duration=lasts,
        question=one.question,
        answer=one.answer,
        spans=one.spans,
        video=one.video,
        kind=one.task,
        sources=one.sources,
        video_first=one.video_first is not False,
    )


def _targets(span: Float[np.ndarray, "2"], frames: int, alpha: float) -> Float[np.ndarray, "f"]:
    import jax.numpy as jnp

    from tgvlm_jax.objectives.sft import frame_targets

    rounded = jnp.round(jnp.asarray(span))[None, None]
    return np.asarray(frame_targets(rounded, frames, alpha=alpha))[0, 0]


def _bars(targets: Float[np.ndarray, "f"]) -> str:
    text = "".join(_BARS[round(float(value) * (len(_BARS) - 1))] for value in targets)
    rows = [text[start : start + _WIDE] for start in range(0, len(text), _WIDE)]
    return "\n".join(f"  |{row}|" for row in rows)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
