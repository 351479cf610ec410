"""What a frozen encoder made of the views of takes, kept so that an epoch need not run it.

A folder holds `features.json` and `features-00000.arrayrecord`, ...: one record a video, the
vectors of its windows as float32, the middle window first (`take_views.window_starts`). The
manifest names the encoder by a hash of its parameters, so that a model with another one is refused.
"""

import dataclasses
import json
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Float32

from tgvlm_jax import files
from tgvlm_jax.schema import TakesConfig
from tgvlm_jax.types import InputError

VERSION = 1
_MANIFEST = "features.json"
_RECORDS = 4096  # a file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was made, and how.

    Attributes:
        encoder: hash of the parameters. width: of a vector. frames: of a clip.
        window: seconds of a clip. windows: drawn from in training; each video has one more.
        videos: ids, in the order of the records.
    """

    version: int
    encoder: str
    width: int
    frames: int
    window: float
    windows: int
    videos: tuple[str, ...]


class FeatureShards:
    """Random access to the vectors of a folder; made by `open_features`. Safe from threads."""

    def __init__(self, folder: Path, manifest: Manifest):
        """Opens nothing yet."""
        self.folder, self.manifest = folder, manifest
        self.videos = {video: record for record, video in enumerate(manifest.videos)}
        self._lock = threading.Lock()
        self._readers: dict[int, ArrayRecordReader] = {}

    @property
    def width(self) -> int:
        """Of a vector."""
        return self.manifest.width

    def check(self, config: TakesConfig, *, frames: int) -> None:
        """Raises InputError unless these are the windows that a config asks for."""
        made = self.manifest
        for name, has, wants in (
            ("data.takes.window", made.window, config.window),
            ("data.takes.windows", made.windows, config.windows),
            ("data.frames", made.frames, frames),
        ):
            if has != wants:
                raise InputError(
                    f"{self.folder}: made with {name}={has}, not {wants}; set that, or run `tgvlm "
                    "features` again"
                )

    def vectors(self, video: str) -> Float32[np.ndarray, "w d"]:
        """Of all windows of a video, the middle one first.

        Raises:
            InputError: a file is missing or damaged.
        """
        number, record = divmod(self.videos[video], _RECORDS)
        path = self.folder / _name(number)
        shape = (self.manifest.windows + 1, self.width)
        try:
            with self._lock:
                if number not in self._readers:
                    self._readers[number] = ArrayRecordReader(str(path))
                (data,) = self._readers[number].read([record])
            return np.frombuffer(data, np.float32).reshape(shape)
        except (RuntimeError, ValueError, IndexError) as error:
            raise InputError(f"{path}: damaged; run `tgvlm features` again") from error


def open_features(folder: Path) -> FeatureShards:
    """Opens a folder of features.

    Raises:
        InputError: there is none, or it is damaged or of another version.
    """
    path = folder / _MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["videos"] = tuple(values["videos"])
        manifest = Manifest(**values)
        if manifest.version != VERSION:
            raise ValueError(f"version {manifest.version}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: no features there ({error}); run `tgvlm features`") from error
    return FeatureShards(folder, manifest)


def write_features(
    folder: Path, manifest: Manifest, vectors: Iterable[Float32[np.ndarray, "w d"]]
) -> None:
    """Writes the vectors of all videos, in the order of the manifest; the folder appears whole.

    Raises:
        InputError: the folder exists, or cannot be written.
    """
    with files.new_folder(folder) as scratch:
        writer: ArrayRecordWriter | None = None
        for record, values in enumerate(vectors):
            if record % _RECORDS == 0:
                _close(writer)
                path = scratch / _name(record // _RECORDS)
                writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
            assert writer is not None
            assert values.shape == (manifest.windows + 1, manifest.width)
            writer.write(np.ascontiguousarray(values, np.float32).tobytes())
        _close(writer)
        text = json.dumps(dataclasses.asdict(manifest)) + "\n"
        (scratch / _MANIFEST).write_text(text, encoding="utf-8")


def _close(writer: ArrayRecordWriter | None) -> None:
    if writer is not None:
        writer.close()


def _name(number: int) -> str:
    return f"features-{number:05d}.arrayrecord"
