"""A model's answers to a benchmark, kept as they are made: a stopped run goes on where it was."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from ml_collections import ConfigDict
from tqdm import tqdm

from tgvlm_jax import files
from tgvlm_jax.cli import session
from tgvlm_jax.cli.looking_answers import Conversations
from tgvlm_jax.data import video
from tgvlm_jax.data.augment import fit
from tgvlm_jax.data.chat import EVIDENCE
from tgvlm_jax.data.frame_pool import frame_pool
from tgvlm_jax.data.patch_videos import shown_size
from tgvlm_jax.evaluation.runner import answer
from tgvlm_jax.evaluation.suite import Question, Suite, answer_line, read_answers
from tgvlm_jax.grounding.timecode import format_span
from tgvlm_jax.rollout.sampling import GREEDY
from tgvlm_jax.schema import DataConfig, Experiment, ModelConfig, SamplingConfig
from tgvlm_jax.types import InputError, Sample

SKIPPED = "skipped.jsonl"
_CHOICE = SamplingConfig(repetition_penalty=1.2)  # of multiple choice (D2VLM 4)
_TIME = "<vid>"  # E.T.Chat's flavour of questions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked: a run, the folder of videos, a config whose data settings hold instead."""

    checkpoint: Path
    videos: Path
    config: ConfigDict | None


def answer_all(suite: Suite, asked: Asked, path: Path) -> str | None:
    """Adds the answers that `path` does not have yet, one batch after the other.

    Gives the name of the scoring that goes with how the model answers, None for the default.

    A question whose video cannot be read gets none, but a line in skipped.jsonl; the next run tries
    it again.

    Raises:
        InputError: checkpoint or folder are not there, `path` has answers of another model, the
            questions are of a flavour that a model cannot be asked, or no video can be read.
    """
    if not asked.videos.is_dir():
        raise InputError(f"--videos {asked.videos}: no such folder")
    if suite.changed:
        raise InputError(
            f"{suite.title} changes videos before it shows them: ask by tgvlm viubench"
        )
    if any(_TIME in question.text for question in suite.questions):
        raise InputError(f"the questions have {_TIME}; take the evi (or txt) flavour of the file")
    session.prepare_jax()
    model = session.open_model(asked.checkpoint, config=asked.config)
    check_author(path, asked.checkpoint)
    known = read_answers(path, suite) if path.exists() else {}
    left = [question for question in suite.questions if question.name not in known]
    lines = [answer_line(q, known[q.name]) for q in suite.questions if q.name in known]
    skipped: list[str] = []
    size = model.experiment.evaluation.batch_size
    batches = list(_batches(left, size))
    looks = Conversations(model, path.parent) if model.experiment.data.turns else None
    for batch in tqdm(batches, desc="answering", unit="batch", leave=False, disable=None):
        lines += _answer_batch(batch, model, looks, asked.videos, skipped)
        if len(skipped) == len(left) and not known:
            raise InputError(f"no video of {suite.title} could be read; the first: {skipped[0]}")
        files.write_text(path, "\n".join(lines) + "\n")
    path.with_name(SKIPPED).unlink(missing_ok=True)
    if skipped:
        files.write_text(path.with_name(SKIPPED), "\n".join(skipped) + "\n")
        print(f"{len(skipped)} questions left unanswered, see {path.with_name(SKIPPED)}\n")
    return "videomtr" if looks is not None and "videomtr" in suite.scorings else None


def check_author(path: Path, checkpoint: Path) -> None:
    """Answers of two models must not mix: the first run leaves its name beside them."""
    note = path.with_name("model.json")
    mine = {"checkpoint": str(checkpoint.resolve())}
    if path.exists() and note.exists() and (found := json.loads(note.read_text())) != mine:
        raise InputError(
            f"{path}: has answers of {found.get('checkpoint')}; give another --workdir, or delete "
            "it"
        )
    files.write_text(note, json.dumps(mine) + "\n")


def _batches(questions: Sequence[Question], size: int) -> Iterator[list[Question]]:
    """Questions about one video come together; those with options are decoded in another way."""
    for choice in (True, False):
        chosen = [question for question in questions if question.choice == choice]
        chosen.sort(key=lambda question: question.video)
        for start in range(0, len(chosen), size):
            yield chosen[start : start + size]


def _answer_batch(
    batch: Sequence[Question],
    model: session.Model,
    looks: Conversations | None,
    videos: Path,
    skipped: list[str],
) -> list[str]:
    """Lines of the answers file; what cannot be asked is added to `skipped`."""
    samples: dict[str, Sample] = {}
    for question in batch:
        try:
            samples[question.name] = _sample(question, videos, model.experiment)
        except InputError as error:
            skipped.append(json.dumps({"question": question.name, "reason": str(error)}))
    asked = [question for question in batch if question.name in samples]
    if looks is not None:
        pairs = zip(asked, looks.answer(samples), strict=True)
        return [answer_line(question, text) for question, text in pairs]
    instructed = bool(model.experiment.data.instruction)
    found = answer(
        model.params,
        list(samples.values()),
        experiment=model.experiment,
        chat=model.chat,
        sampling=_CHOICE if batch[0].choice and not instructed else GREEDY,
    )
    pairs = zip(asked, found, strict=True)
    return [answer_line(question, written(one.raw, one.mentions)) for question, one in pairs]


def written(raw: str, mentions: Float64[np.ndarray, "m 2"]) -> str:
    """The text that scorers read: each `<evi>` as "start - end " in whole seconds (D2VLM 1.7).

    A model without evidence heads may write one that has no times; it is left out.
    """
    first, *rest = raw.split(EVIDENCE)
    times = [format_span(span, "frames") for span in mentions]
    times += [""] * (len(rest) - len(times))
    return first + "".join(time + part for time, part in zip(times, rest, strict=True))


def _sample(question: Question, videos: Path, experiment: Experiment) -> Sample:
    data = experiment.data
    if len(question.sources) > data.max_sources:
        raise InputError(
            f"{len(question.sources)} intervals in the question, but data.max_sources="
            f"{data.max_sources}"
        )
    path, bounds, turns = videos / question.video, question.bounds, data.turns
    rate = data.fps if turns is None else turns.rate
    frames = _decoded(path, data, experiment.model, bounds, rate)
    duration = min(bounds[1], frames.info.duration) if bounds else frames.info.duration
    if question.sources and (latest := max(start for start, _ in question.sources)) > duration:
        raise InputError(f"asks about {latest:g} s, but {path} has {duration:g} s")
    count, most = len(frames.seconds), max(data.frames)
    chosen = np.arange(count)
    if turns is not None:
        pool = turns.pool - turns.pool % 2
        chosen = frame_pool(count, turns.rate, most=pool, rate=turns.rate).frames
    elif count > most:
        chosen = np.linspace(0, count - 1, most).round().astype(np.int64)
    own_words = question.plain and (data.instruction or turns is not None)
    return Sample(
        frames=fit(frames.pixels[chosen], experiment.model.frame_size, config=data),
        seconds=frames.seconds[chosen],
        duration=duration,
        question=question.plain if own_words else question.text,
        answer="",
        spans=np.zeros((0, 2)),
        video=question.video,
        kind=question.kind,
        sources=np.asarray(question.sources, np.float64).reshape(-1, 2),
    )


@functools.lru_cache(maxsize=1)
def _decoded(
    path: Path,
    data: DataConfig,
    model: ModelConfig,
    bounds: tuple[float, float] | None,
    rate: float,
) -> video.VideoFrames:
    """All frames at a rate (a second), their shorter side no smaller than the model's frames."""
    info = video.probe(path)
    size = shown_size(info.height, info.width, model=model, config=data)
    scale = max(size[0] / info.height, size[1] / info.width)
    start, end = bounds or (0.0, None)
    height = max(1, round(info.height * scale))
    return video.distinct(video.decode(path, fps=rate, height=height, start=start, end=end))
