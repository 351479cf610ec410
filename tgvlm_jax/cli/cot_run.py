"""The CoT job with its models: who writes, from which frames, and who judges."""

import base64
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from tgvlm_jax.cli import session
from tgvlm_jax.data import cot, record_files
from tgvlm_jax.data.annotated import Videos
from tgvlm_jax.data.augment import fit
from tgvlm_jax.data.cot import Counts, Trace, Write
from tgvlm_jax.data.manifest import ShardError
from tgvlm_jax.data.process_prompt import instruct
from tgvlm_jax.data.process_records import ProcessRecord
from tgvlm_jax.data.shards import FrameShards, open_shards
from tgvlm_jax.evaluation.runner import answer
from tgvlm_jax.judges import http
from tgvlm_jax.schema import DataConfig, JudgeConfig, SamplingConfig
from tgvlm_jax.train import judging
from tgvlm_jax.types import InputError, Sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The flags of `tgvlm cot`, which says what they are."""

    records: str
    shards: str
    out: str
    checkpoint: str = ""
    url: str = ""
    model: str = ""
    judge: str = "words"
    judge_url: str = ""
    judge_model: str = ""
    judge_checkpoint: str = ""
    cache: str = ""
    key_variable: str = "OPENAI_API_KEY"
    name: str = "cot"
    parts: int = 1
    batch: int = 8
    frames: int = 16
    max_tokens: int = 1024
    concurrency: int = 8
    retries: int = 3
    budget: int = 0
    seed: int = 0
    threshold: float = cot.THRESHOLD
    temperature: float = 0.0
    timeout: float = 120.0


NAMES = tuple(field.name for field in dataclasses.fields(Options))
# What decides the results, so that a job goes on with the same only.
_DECIDE = ("checkpoint", "url", "model", "judge", "judge_url", "judge_model", "judge_checkpoint",
           "frames", "max_tokens", "seed", "temperature")  # fmt: skip


def run(options: Options) -> Counts:
    """Runs the job, or goes on with it.

    Raises:
        InputError: records, shards, models or settings are wrong, or what `cot.run` raises.
    """
    if bool(options.checkpoint) == bool(options.url):
        raise InputError("who writes? give --checkpoint, or --url with --model")
    records = record_files.read(Path(options.records))
    shards = open_shards(options.shards)
    settings = cot.Settings(
        name=options.name,
        parts=options.parts,
        threshold=options.threshold,
        batch=options.batch,
        about={name: getattr(options, name) for name in _DECIDE},
    )
    judge = judging.open_judge(_judge(options))
    try:
        with (
            _writer(options, shards) as write,
            tqdm(total=len(records), desc="records", leave=False, disable=None) as bar,
        ):

            def told(counts: Counts) -> None:
                bar.update(counts.records - counts.undecided - bar.n)
                bar.set_postfix(kept=counts.kept)

            out = Path(options.out)
            return cot.run(
                records, out, write=write, judge=judge.judge, settings=settings, told=told
            )
    finally:
        judge.close()


def _judge(options: Options) -> JudgeConfig:
    kind: Any = options.judge
    return JudgeConfig(
        kind=kind,
        url=options.judge_url,
        model=options.judge_model,
        checkpoint=options.judge_checkpoint,
        **_endpoint(options),
    )


def _endpoint(options: Options) -> dict[str, Any]:
    names = ("key_variable", "timeout", "retries", "concurrency", "cache", "budget")
    return {name: getattr(options, name) for name in names}


@contextmanager
def _writer(options: Options, shards: FrameShards) -> Iterator[Write]:
    if options.checkpoint:
        yield _own(options, shards)
        return
    config = JudgeConfig(
        kind="http",
        url=options.url,
        model=options.model,
        max_tokens=options.max_tokens,
        **_endpoint(options),
    )
    client = judging.open_endpoint(config)
    try:
        yield _asked(options, shards, client)
    finally:
        client.close()


def _own(options: Options, shards: FrameShards) -> Write:
    """A model of ours, in batches of one size."""
    session.prepare_jax()
    model = session.open_model(Path(options.checkpoint))
    experiment = model.experiment
    experiment = dataclasses.replace(
        experiment,
        data=dataclasses.replace(
            experiment.data, instruction=experiment.data.instruction or "process"
        ),
        evaluation=dataclasses.replace(
            experiment.evaluation, batch_size=options.batch, max_tokens=options.max_tokens
        ),
    )
    chat = session.open_chat(experiment.data, experiment.model)
    videos, size = Videos(shards, experiment.data), experiment.model.frame_size

    def write(records: Sequence[ProcessRecord], number: int) -> list[Trace]:
        samples, found = {}, [Trace()] * len(records)
        for place, record in enumerate(records):
            try:
                samples[place] = sample(record, videos, experiment.data, size)
            except (ShardError, InputError, OSError) as error:
                found[place] = Trace(unreadable=str(error))
        if not samples:
            return found
        said = answer(
            model.params,
            list(samples.values()),
            experiment=experiment,
            chat=chat,
            sampling=SamplingConfig(temperature=options.temperature),
            key=jax.random.fold_in(jax.random.key(options.seed), number),
        )
        for place, one in zip(samples, said, strict=True):
            found[place] = Trace(text=one.raw)
        return found

    return write


def _chosen(videos: Videos, path: str, most: int) -> np.ndarray:
    """Numbers of the stored frames that are shown, evenly spread."""
    if videos.find(path) is None:
        raise InputError(videos.missing(path))
    found = videos.frames(path)
    if not len(found):
        raise InputError(f"video {path!r} has no frame that lasts")
    places = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(np.int64)
    return found[places]


def sample(
    record: ProcessRecord, videos: Videos, data: DataConfig, size: tuple[int, int] | None
) -> Sample:
    """The question of a record, to be answered; raises InputError or ShardError without a video.

    `size` is (height, width) of the frames, None for as they are stored.
    """
    chosen = _chosen(videos, record.path, max(data.frames))
    return Sample(
        frames=fit(videos.read(record.path, chosen), size, config=data),
        seconds=videos.seconds(record.path)[chosen],
        duration=videos.duration(record.path),
        question=record.question,
        answer="",
        spans=np.zeros((0, 2)),
        video=record.path,
        kind=record.kind,
        truth=record.truth,
    )


def _asked(options: Options, shards: FrameShards, client: http.Chat) -> Write:
    """An endpoint, shown the JPEG images that the shards hold."""
    videos = Videos(shards, DataConfig(fps=shards.manifest.settings.fps))

    def write(records: Sequence[ProcessRecord], number: int) -> list[Trace]:
        contents, found = {}, [Trace()] * len(records)
        for place, record in enumerate(records):
            try:
                contents[place] = _content(record, videos, options.frames)
            except (ShardError, InputError, OSError) as error:
                found[place] = Trace(unreadable=str(error))
        for place, reply in zip(contents, client(list(contents.values())), strict=True):
            found[place] = Trace(text=reply.text, failure=reply.failure)
        return found

    return write


def _content(record: ProcessRecord, videos: Videos, most: int) -> list[dict[str, Any]]:
    """Frames, each after its time, and then the question."""
    chosen = _chosen(videos, record.path, most)
    entry = videos.find(record.path)
    assert entry is not None, "checked by _chosen"
    parts: list[dict[str, Any]] = []
    for place in chosen.tolist():
        (jpeg,) = videos.shards.jpegs(entry.id, place, place + 1)
        coded = base64.b64encode(jpeg).decode()
        parts.append({"type": "text", "text": f"<{entry.seconds[place]:.1f} seconds>"})
        url = {"url": f"data:image/jpeg;base64,{coded}"}
        parts.append({"type": "image_url", "image_url": url})
    asked = instruct(record.question, instruction="process", kind=record.kind)
    return [*parts, {"type": "text", "text": asked}]
