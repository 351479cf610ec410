"""Making frame shards with Apache Beam: on this machine, or on Dataflow, Flink or Spark.

The steps are those of `shard_tasks`; here they are put into a pipeline. What comes out is, byte for
byte, what `shard_writer` makes on one machine, whatever the number of workers.
"""

import contextlib
import importlib
import io
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tgvlm_jax import config
from tgvlm_jax.data import shard_files, shard_tasks, storage
from tgvlm_jax.data.decode_pool import Decoder
from tgvlm_jax.data.manifest import Manifest, load
from tgvlm_jax.data.shard_files import SHARD_BYTES
from tgvlm_jax.data.shard_progress import Progress
from tgvlm_jax.data.shard_tasks import Outcome, Plan, Task
from tgvlm_jax.data.shard_writer import Videos, checked_settings, named_videos, writing
from tgvlm_jax.data.storage import Place
from tgvlm_jax.types import InputError

# "direct" is Beam's own engine for one machine, by the name that does not download another first.
RUNNERS = {
    "direct": "FnApiRunner",
    "dataflow": "DataflowRunner",
    "flink": "FlinkRunner",
    "spark": "SparkRunner",
}
_COUNTERS = "tgvlm.shard"  # their namespace in Beam's metrics
# Workers that are threads of this process, those of the direct runner, say here how far they are.
_WATCHED: dict[str, Progress] = {}


def write_shards_beam(
    videos: Videos,
    out: str | os.PathLike[str],
    *,
    fps: float,
    height: int,
    width: int | None = None,
    quality: int = 90,
    runner: str = "direct",
    options: Sequence[str] = (),
    workers: int = 1,
    timeout_s: float = 120.0,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = True,
) -> Manifest:
    """`shard_writer.write_shards` on a Beam runner; arguments that it does not have:

    Args:
        runner: one of RUNNERS.
        options: Beam's own, as `key=value` or `key`: `project=...`, `num_workers=20`.
        workers: of the direct runner; the others are told by options.

    A run that was stopped, on any machine, goes on where it was: what is decoded lies in the
    scratch folder of `out` until the manifest is written.

    Raises:
        InputError: what `write_shards` raises; the extra `beam` is missing, an option is unknown,
            workers could not see a place, or the pipeline failed.
    """
    named, place = named_videos(videos), storage.at(out)
    settings = checked_settings(fps=fps, height=height, width=width, quality=quality)
    if not (workers >= 1 and timeout_s > 0):
        raise InputError(f"{workers} workers, {timeout_s} s of patience; give more than 0 of both")
    _check_places(runner, [place, *named.values()])
    pipeline_options = _options(runner, options, workers=workers)
    plan = Plan(
        out=str(place.absolute() if isinstance(place, Path) else place),
        settings=settings,
        shard_bytes=shard_bytes,
        timeout_s=timeout_s,
    )
    with writing(place, keep=True) as scratch:
        shard_tasks.save_tasks(plan, {key: _absolute(path) for key, path in named.items()})
        with _failures(place), _watching(plan, named, show=progress and runner == "direct"):
            counters = _run(plan, RUNNERS[runner], pipeline_options)
        if progress:
            said = ", ".join(f"{counters.get(state, 0)} {state}" for state in shard_tasks.STATES)
            print(f"shard: of {len(named)} videos {said}", file=sys.stderr, flush=True)
        storage.forget_listings(place)
        manifest = load(plan.scratch / shard_tasks.RESULT)
        try:
            return shard_files.finish(manifest, place, scratch=scratch)
        finally:
            storage.remove_folder(plan.scratch)


def _absolute(place: Place) -> Place:
    return place.absolute() if isinstance(place, Path) else place


def _check_places(runner: str, places: Sequence[Place]) -> None:
    if runner == "dataflow":
        for place in places:
            if not storage.is_remote(place):
                raise InputError(f"{place}: Dataflow cannot see it; copy it to gs://BUCKET/...")


def _beam() -> Any:
    logging.disable(logging.WARNING)  # of what it does without
    try:
        return importlib.import_module("apache_beam")
    except ImportError as error:
        raise InputError(
            f"--runner other than local needs Apache Beam ({error}); pip install "
            "'tgvlm_jax[beam]' in an environment of its own, or leave --runner out"
        ) from error
    finally:
        logging.disable(logging.NOTSET)


def _options(runner: str, options: Sequence[str], *, workers: int) -> Any:
    """Beam's options out of `key=value` words; unknown ones, which Beam would drop, are refused."""
    PipelineOptions = _beam().options.pipeline_options.PipelineOptions
    known = PipelineOptions([]).get_all_options()
    for item in options:
        key = item.partition("=")[0]
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                read = PipelineOptions([f"--{item}"]).get_all_options(drop_default=True)
        except SystemExit as error:
            reason = said.getvalue().strip().rpartition("error: ")[2]
            raise InputError(f"--beam {item}: {reason}; see Beam's documentation") from error
        if not read and key not in known:
            near = config.suggest(key, known)
            raise InputError(f"--beam {item}: Beam has no option {key!r}{near}")
    words = [f"--{item}" for item in options]
    if runner == "direct":  # decoding is done by child processes, so threads are enough
        words = [f"--direct_num_workers={workers}", "--direct_running_mode=multi_threading", *words]
    return PipelineOptions(words)


def _run(plan: Plan, runner: str, options: Any) -> dict[str, int]:
    """Runs the pipeline to its end; what its counters say."""
    beam = _beam()
    every = beam.pvalue.AsList
    decoding = type("DecodeVideos", (_DecodeVideos, beam.DoFn), {})
    pipeline = beam.Pipeline(runner=runner, options=options)
    start = pipeline | "Start" >> beam.Create([plan])
    intact = (
        start
        | "ListEarlierFiles" >> beam.FlatMap(shard_tasks.promised_files)
        | "SpreadEarlierFiles" >> beam.Reshuffle()
        | "CheckEarlierFiles" >> beam.Filter(lambda file: shard_files.is_intact(plan.place, file))
        | "NameEarlierFiles" >> beam.Map(lambda file: file.file)
    )
    outcomes = (
        start
        | "ListVideos" >> beam.FlatMap(shard_tasks.read_tasks)
        | "SpreadVideos" >> beam.Reshuffle()
        | "DecodeVideos" >> beam.ParDo(decoding(plan), every(intact))
        | "KeepOutcomes" >> beam.Reshuffle()  # nothing behind this decodes again when it is retried
    )
    written = (
        start
        | "ArrangeFiles" >> beam.FlatMap(shard_tasks.arrange, every(outcomes))
        | "SpreadFiles" >> beam.Reshuffle()
        | "WriteFiles" >> beam.Map(shard_tasks.write, plan)
        | "KeepFiles" >> beam.Reshuffle()
    )
    _ = start | "Conclude" >> beam.Map(shard_tasks.conclude, every(outcomes), every(written))
    result = pipeline.run()
    state = result.wait_until_finish()
    if str(state) != "DONE":
        raise InputError(f"{plan.out}: the Beam job ended as {state}; see its log, then run again")
    counters = result.metrics().query(beam.metrics.MetricsFilter().with_namespace(_COUNTERS))
    return {found.key.metric.name: found.result for found in counters["counters"]}


class _DecodeVideos:
    """Videos into the scratch folder, with counters of what came of them: a `beam.DoFn`.

    Each copy of it that Beam makes has a child process that decodes. `_run` adds the base class,
    which is there only with the extra.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def setup(self) -> None:
        """Called by Beam before the first video."""
        self.decoder = Decoder()
        self.counter = _beam().metrics.Metrics.counter

    def teardown(self) -> None:
        """Called by Beam after the last one."""
        self.decoder.kill()

    def process(self, task: Task, intact: list[str]) -> Iterator[Outcome]:
        """Called by Beam for each video."""
        bar = _WATCHED.get(self.plan.out)

        def report(part: float) -> None:
            if bar is not None:
                bar.advance(task.id, part)

        outcome = shard_tasks.spool(task, self.plan, self.decoder, intact=intact, report=report)
        report(1.0)
        self.counter(_COUNTERS, outcome.state).inc()
        self.counter(_COUNTERS, "jpeg_bytes").inc(outcome.bytes)
        yield outcome


@contextlib.contextmanager
def _watching(plan: Plan, videos: Mapping[str, Place], *, show: bool) -> Iterator[None]:
    """Shows how far the decoding is, with the time left."""
    with Progress(videos, show=show) as bar:
        _WATCHED[plan.out] = bar
        try:
            yield
        finally:
            del _WATCHED[plan.out]


@contextlib.contextmanager
def _failures(out: Place) -> Iterator[None]:
    """Beam reports what went wrong on a worker as text; the cause is the last line of it."""
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        cause = re.sub(r"^[\w.]*(Error|Exception): | \[while running .*", "", lines[-1])[:300]
        raise InputError(
            f"{out}: the Beam job failed: {cause}; what is decoded is kept, run it again"
        ) from error
