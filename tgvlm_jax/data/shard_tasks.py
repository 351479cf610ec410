"""Sharding in steps that any number of machines can take, in any order, and more than once.

    list -> spool (a video each) -> arrange (once) -> write (a shard file each) -> conclude (once)

A step leaves its result in the scratch folder of the shard folder: the JPEGs of a video and, last,
a note about them. A step that is taken again finds it there or writes the same bytes: workers may
die, overlap and be retried, and a run that was stopped goes on where it was.
"""

import contextlib
import dataclasses
import hashlib
import json
import tempfile
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from tgvlm_jax.data import shard_files, storage
from tgvlm_jax.data.decode_pool import Decoded, Decoder, Job, digest_of
from tgvlm_jax.data.manifest import Settings, ShardFile, Skipped, VideoEntry, save
from tgvlm_jax.data.shard_files import Earlier, Part, Written
from tgvlm_jax.data.shard_writer import SCRATCH
from tgvlm_jax.data.storage import Place

State: TypeAlias = Literal["kept", "found", "decoded", "skipped"]
STATES: tuple[State, ...] = typing.get_args(State)
_TASKS = "tasks.jsonl"
RESULT = "result.json"  # the manifest, before it counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What all steps know: the shard folder (a path or gs://...) and how it is to be filled."""

    out: str
    settings: Settings
    shard_bytes: int
    timeout_s: float

    @property
    def place(self) -> Place:
        """The shard folder."""
        return storage.at(self.out)

    @property
    def scratch(self) -> Place:
        """Where steps leave their results for others."""
        return self.place / SCRATCH


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A video to be looked at.

    Attributes:
        index: its place in the set.
        id, path: its name in the set, and its file.
        sha256, shard: of that video in an earlier run, or empty.
    """

    index: int
    id: str
    path: str
    sha256: str
    shard: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a task.

    Attributes:
        index, id: of the task. source: name of the file.
        state: "kept" is unchanged and in a shard file of an earlier run; "found" was decoded by a
            run that was stopped; "decoded" by this one; "skipped" cannot be.
        bytes: of the JPEGs, if they are in the scratch folder.
        reason: why it was skipped.
    """

    index: int
    id: str
    source: str
    state: State
    bytes: int = 0
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilePlan:
    """A shard file to be written: either of videos in other shard files, or of decoded ones."""

    name: str
    copies: tuple[Part, ...] = ()
    decoded: tuple[str, ...] = ()


def save_tasks(plan: Plan, videos: Mapping[str, Place]) -> None:
    """Lists the videos in the scratch folder: there may be more than a pipeline can carry."""
    old = shard_files.earlier(plan.place, plan.settings)
    with _workspace(plan) as folder:
        fresh = folder / _TASKS
        with fresh.open("w", encoding="utf-8") as file:
            for index, (key, path) in enumerate(videos.items()):
                known = old.videos.get(key)
                if known is not None and known.source != path.name:
                    known = None
                task = Task(
                    index=index,
                    id=key,
                    path=str(path),
                    sha256=known.sha256 if known else "",
                    shard=known.shard if known else "",
                )
                file.write(json.dumps(dataclasses.asdict(task)) + "\n")
        storage.publish(fresh, plan.scratch / _TASKS)


def read_tasks(plan: Plan) -> Iterator[Task]:
    """The videos, in order."""
    with storage.on_disk(plan.scratch / _TASKS) as path, path.open(encoding="utf-8") as file:
        for line in file:
            yield Task(**json.loads(line))


def promised_files(plan: Plan) -> Iterator[ShardFile]:
    """The shard files of earlier runs; `shard_files.is_intact` reads one to see if it is so."""
    yield from shard_files.earlier(plan.place, plan.settings).shards.values()


def spool(
    task: Task,
    plan: Plan,
    decoder: Decoder,
    *,
    intact: Collection[str],
    report: Callable[[float], None] = lambda part: None,
) -> Outcome:
    """Decodes a video into the scratch folder, unless its frames are there or in a shard file.

    Args:
        task: the video.
        plan: where to.
        decoder: a child process; a video that kills it or makes it hang is skipped.
        intact: names of the shard files of earlier runs that are as they were written.
        report: is told now and then which part of the video is decoded.

    Raises:
        OSError: the disk or the network is at fault, not the video.
    """
    place = storage.at(task.path)
    nothing = Outcome(index=task.index, id=task.id, source=place.name, state="kept")
    if task.shard in intact and digest_of(place) == task.sha256:
        return nothing
    stamp = _stamp(place)
    found = _noted(task.id, plan, stamp)
    if found is not None:
        return dataclasses.replace(nothing, state="found", bytes=found.bytes)
    with _workspace(plan) as folder:
        job = Job(id=task.id, path=place, spool=folder / "jpegs", settings=plan.settings, threads=1)
        result = decoder.decode(
            job, timeout_s=plan.timeout_s, report=lambda job, part: report(part)
        )
        if not isinstance(result, Decoded):
            return dataclasses.replace(nothing, state="skipped", reason=result)
        storage.publish(job.spool, _spool(task.id, plan))
        note = folder / "note"
        words = {"settings": dataclasses.asdict(plan.settings), "stamp": stamp}
        words |= {"entry": dataclasses.asdict(result.entry), "sizes": result.sizes}
        note.write_text(json.dumps(words), encoding="utf-8")
        storage.publish(note, _note(task.id, plan))
    return dataclasses.replace(nothing, state="decoded", bytes=sum(result.sizes))


def arrange(plan: Plan, outcomes: Iterable[Outcome]) -> list[FilePlan]:
    """Which videos go into which shard file."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.index)
    old = shard_files.earlier(plan.place, plan.settings)
    plans = [
        FilePlan(name="", copies=tuple(batch))
        for batch in shard_files.fill(_reused(ordered, old).copies, plan.shard_bytes)
    ]
    decoded = (outcome for outcome in ordered if outcome.state in ("found", "decoded"))
    plans += [
        FilePlan(name="", decoded=tuple(outcome.id for outcome in batch))
        for batch in shard_files.fill(decoded, plan.shard_bytes)
    ]
    return [
        dataclasses.replace(file, name=shard_files.name_of(old.number + index))
        for index, file in enumerate(plans)
    ]


def write(file: FilePlan, plan: Plan) -> Written:
    """Writes one shard file into the shard folder.

    Raises:
        OSError: the disk or the network is at fault, or the scratch folder was changed.
    """
    old = Earlier(videos={}, shards={}, number=0)
    if file.copies:
        old = shard_files.earlier(plan.place, plan.settings)
    parts = list(file.copies)
    for key in file.decoded:
        part = _noted(key, plan, None)
        if part is None:
            raise OSError(f"{_note(key, plan)}: is gone; run again")
        parts.append(part)
    with _workspace(plan) as folder:
        return shard_files.write_file(
            file.name,
            parts,
            out=plan.place,
            scratch=folder,
            old=shard_files.frames_of(plan.place, plan.settings, old),
        )


def conclude(plan: Plan, outcomes: Iterable[Outcome], written: Iterable[Written]) -> None:
    """Leaves the manifest in the scratch folder, for `shard_files.finish`."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.index)
    left = _reused(ordered, shard_files.earlier(plan.place, plan.settings))
    videos, shards = dict(left.videos), dict(left.shards)
    for one in written:
        shards[one.shard.file] = one.shard
        videos |= {entry.id: entry for entry in one.videos}
    manifest = shard_files.manifest_of(
        plan.settings,
        videos=[videos[outcome.id] for outcome in ordered if outcome.state != "skipped"],
        shards=[shards[name] for name in sorted(shards)],
        skipped=[
            Skipped(id=outcome.id, source=outcome.source, reason=outcome.reason)
            for outcome in ordered
            if outcome.state == "skipped"
        ],
    )
    with _workspace(plan) as folder:
        save(manifest, plan.scratch / RESULT, folder)


def _reused(ordered: Iterable[Outcome], old: Earlier) -> shard_files.Reused:
    return shard_files.reused(old, [one.id for one in ordered if one.state == "kept"])


@contextlib.contextmanager
def _workspace(plan: Plan) -> Iterator[Path]:
    """A folder of this machine, on the disk of the shard folder if that is of this machine."""
    scratch = plan.scratch
    with tempfile.TemporaryDirectory(
        prefix="tgvlm-", dir=scratch if isinstance(scratch, Path) else None
    ) as folder:
        yield Path(folder)


def _spool(key: str, plan: Plan) -> Place:
    """The JPEGs of a video; an id may have characters that a file name may not."""
    return plan.scratch / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.jpegs"


def _note(key: str, plan: Plan) -> Place:
    return _spool(key, plan).with_suffix(".json")


def _stamp(place: Place) -> str:
    """Tells one state of a source file from another without reading it; empty if it is missing."""
    try:
        return storage.stamp(place)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""


def _noted(key: str, plan: Plan, stamp: str | None) -> Part | None:
    """The decoded frames of a video, if they are there, of these settings and of this file."""
    path = _spool(key, plan)
    try:
        raw = json.loads(storage.read_text(_note(key, plan)))
        fits = raw["settings"] == dataclasses.asdict(plan.settings)
        if not (fits and stamp in (None, raw["stamp"])):
            return None
        seconds = tuple(raw["entry"].pop("seconds"))
        entry = VideoEntry(**raw["entry"], seconds=seconds)
        sizes = tuple(raw["sizes"])
        if entry.id != key or storage.size(path) != sum(sizes):
            return None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return Part(entry=entry, bytes=sum(sizes), spool=path, sizes=sizes)
