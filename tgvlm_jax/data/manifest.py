"""The manifest of a frame-shard directory: its fields, its JSON file, and how it is checked."""

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

from tgvlm_jax.data import storage
from tgvlm_jax.data.storage import Place
from tgvlm_jax.errors import InputError

VERSION = 1
FINISHED = "manifest.json"
UNFINISHED = "manifest.partial.json"  # what a stopped run had finished
_T = TypeVar("_T")
_WRONG = object()


class ShardError(InputError):
    """A shard directory that cannot be read; one line with the file and what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How frames were sampled and stored; shards of other settings are not reused.

    Attributes:
        fps: sampled frames per second.
        height, width: pixels; width None keeps the shape of each video.
        quality: of the JPEG, 1 to 100; chroma is stored at half resolution, as video has it.
    """

    fps: float
    height: int
    width: int | None
    quality: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoEntry:
    """One video of the set, and where its frames are.

    Attributes:
        id: its name in the set.
        source: file name (no directories) of the video it was made from.
        sha256: of that file.
        duration, fps: of the source, in seconds and mean frames per second.
        width, height: pixels of the stored frames.
        shard: name of the shard file.
        first_record: index of its first frame there; the others follow.
        seconds: for each frame, when a player begins to show it, to the microsecond.
    """

    id: str
    source: str
    sha256: str
    duration: float
    fps: float
    width: int
    height: int
    shard: str
    first_record: int
    seconds: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardFile:
    """One ArrayRecord file: its name, records, bytes and the sha256 of its content."""

    file: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A video that could not be read, and why."""

    id: str
    source: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is known about a shard directory; `manifest.json` is its JSON form."""

    version: int
    settings: Settings
    videos: tuple[VideoEntry, ...]
    shards: tuple[ShardFile, ...]
    skipped: tuple[Skipped, ...]


def damaged(path: Place, what: str) -> ShardError:
    """The one way to say that a file of a shard directory is not as it was written."""
    return ShardError(f"{path}: {what}; re-run `tgvlm shard` to make it again")


def load(path: Place) -> Manifest:
    """Reads a manifest and checks that its parts agree; the shard files are not looked at.

    Raises:
        ShardError: missing, not JSON, of another version, a wrong field, or inconsistent.
    """
    try:
        raw = json.loads(storage.read_text(path))
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise damaged(path, f"is not JSON ({error})") from error
    found = raw.get("version") if isinstance(raw, dict) else None
    if found != VERSION:
        raise damaged(path, f"has format version {found!r}, this release reads {VERSION}")

    def build(kind: type[_T], values: Any, where: str) -> _T:
        fields = {field.name: field.type for field in dataclasses.fields(kind)}  # type: ignore
        if not isinstance(values, dict) or values.keys() != fields.keys():
            raise damaged(path, f"{where} does not have the keys {', '.join(fields)}")
        checked = {}
        for name, expected in fields.items():
            checked[name] = _convert(values[name], expected)
            if checked[name] is _WRONG:
                raise damaged(path, f"{where}.{name} has the wrong type")
        return kind(**checked)

    def build_all(kind: type[_T], name: str) -> tuple[_T, ...]:
        rows = raw.get(name)
        if not isinstance(rows, list):
            raise damaged(path, f"{name} is not a list")
        return tuple(build(kind, row, f"{name}[{index}]") for index, row in enumerate(rows))

    manifest = Manifest(
        version=VERSION,
        settings=build(Settings, raw.get("settings"), "settings"),
        videos=build_all(VideoEntry, "videos"),
        shards=build_all(ShardFile, "shards"),
        skipped=build_all(Skipped, "skipped"),
    )
    _check_records(manifest, path)
    return manifest


def _convert(value: Any, expected: Any) -> Any:
    """A JSON value as the type of a field, or _WRONG."""
    if expected == tuple[float, ...]:
        good = isinstance(value, list) and value and all(type(x) in (int, float) for x in value)
        return tuple(map(float, value)) if good else _WRONG
    if expected is float and type(value) is int:
        return float(value)
    return value if isinstance(value, expected) and type(value) is not bool else _WRONG


def _check_records(manifest: Manifest, path: Place) -> None:
    """The videos of each shard file must fill its records, without a gap or an overlap."""
    filled = {shard.file: 0 for shard in manifest.shards}
    for entry in sorted(manifest.videos, key=lambda entry: entry.first_record):
        if filled.get(entry.shard) != entry.first_record:
            raise damaged(path, f"puts {entry.id} at a wrong place in {entry.shard}")
        filled[entry.shard] += len(entry.seconds)
    for shard in manifest.shards:
        if filled[shard.file] != shard.records:
            what = f"counts {filled[shard.file]} frames in {shard.file} but {shard.records} records"
            raise damaged(path, what)
    if len({entry.id for entry in manifest.videos}) != len(manifest.videos):
        raise damaged(path, "names a video twice")


def save(manifest: Manifest, path: Place, scratch: Path) -> None:
    """Writes a manifest at once: whoever reads `path` sees the old one or the new one.

    Raises OSError. `scratch` is a folder of this machine.
    """
    fresh = scratch / path.name
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(manifest), file, separators=(",", ":"))
        file.write("\n")
    storage.publish(fresh, path)
