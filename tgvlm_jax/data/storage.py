"""Where shards and the videos they come from lie: folders of this machine, and buckets (gs://).

A place is a `pathlib.Path` or, with a scheme, an `epath.Path`; the same few operations do for both.
What the video decoder and the ArrayRecord writer can only do to local files goes through one. An
object of a bucket appears whole, when its upload is complete, so there nothing is to be renamed.
"""

import contextlib
import errno
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath
from etils.epath import backend

from tgvlm_jax import files
from tgvlm_jax.errors import InputError

Place: TypeAlias = Path | epath.Path
_BLOCK = 8 * 2**20  # bytes copied at a time


def at(path: str | os.PathLike[str]) -> Place:
    """The place that a person named.

    Raises:
        InputError: a scheme other than gs://, or the `gcs` extra is not installed.
    """
    text = os.fspath(path)
    scheme, separator, _ = text.partition("://")
    if not separator:
        return Path(text)
    if scheme != "gs":
        raise InputError(
            f"{text}: only gs:// and local paths are known; mount it, or copy it to this machine"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(
            f"{text}: buckets need an extra; pip install 'tgvlm_jax[gcs]', or mount the bucket"
        )
    return epath.Path(text)


def is_remote(place: Place) -> bool:
    """Whether a place is in a bucket."""
    return not isinstance(place, Path)


@contextlib.contextmanager
def reaching(place: Place) -> Iterator[None]:
    """Turns what the libraries of a bucket raise into OSError; a local place raises as it does."""
    try:
        yield
    except (OSError, InputError):
        raise
    except Exception as error:
        if not is_remote(place):
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise OSError(errno.EIO, text, str(place)) from error


def is_folder(place: Place) -> bool:
    """Whether a folder is there; in a bucket, whether anything lies below.

    Raises:
        OSError: the bucket cannot be asked.
    """
    if isinstance(place, Path):
        return place.is_dir()
    with reaching(place):
        try:
            found = _listed(place)
        except FileNotFoundError:
            return False
    return [f"gs://{entry['name']}" for entry in found] != [os.fspath(place)]


def size(place: Place) -> int:
    """The bytes of a file. Raises OSError if there is none."""
    if isinstance(place, Path):
        return place.stat().st_size
    with reaching(place):
        return place.stat().length


def stamp(place: Place) -> str:
    """What differs once a file has been replaced: its size and when it was last written."""
    if isinstance(place, Path):
        status = place.stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    with reaching(place):
        found = place.stat()
        return f"{found.length} {found.mtime}"


def sizes(folder: Place) -> dict[str, int]:
    """The bytes of each file in a folder, by name: one request to a bucket. None without a folder.

    Raises:
        OSError: the folder is there and cannot be listed.
    """
    if isinstance(folder, Path):
        if not folder.is_dir():
            return {}
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    forget_listings(folder)
    with reaching(folder), contextlib.suppress(FileNotFoundError):
        files = (entry for entry in _listed(folder) if entry["type"] == "file")
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in files}
    return {}


def _listed(place: Place) -> list[dict[str, Any]]:
    """What gcsfs knows of the things in a folder; of a file, if it is one."""
    return backend.fsspec_backend.fs(place).ls(os.fspath(place), detail=True)


def names(folder: Place, *patterns: str) -> list[str]:
    """The names of files in a folder that fit one of the patterns, in order."""
    found = sizes(folder)
    return sorted(name for name in found if any(fnmatch(name, pattern) for pattern in patterns))


def files_below(place: Place) -> list[Place]:
    """All files in a folder and the folders in it, in order of their paths."""
    if isinstance(place, Path):
        return sorted(path for path in place.rglob("*") if path.is_file())
    found: list[Place] = []
    with reaching(place):
        for folder, _, names in place.walk():
            text = os.fspath(folder)  # from which etils drops the scheme
            below = epath.Path(text if "://" in text else f"gs://{text}")
            found += [below / name for name in names]
    return sorted(found)


def sha256(place: Place) -> str:
    """The sha256 of the content of a file, in hexadecimal. Raises OSError."""
    if isinstance(place, Path):
        with place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    with reaching(place), place.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def on_disk(place: Place) -> Iterator[Path]:
    """A file as one of this machine: itself, or a copy that is gone after the block.

    Raises:
        OSError: it is not there or cannot be fetched.
    """
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="tgvlm-") as folder:
        copy = Path(folder) / place.name
        with reaching(place), place.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
        yield copy


def read_text(place: Place) -> str:
    """The content of a text file. Raises OSError, or ValueError if it is not UTF-8."""
    with reaching(place):
        return place.read_text(encoding="utf-8")


def publish(fresh: Path, place: Place) -> None:
    """Gives a complete local file its place; it is moved there.

    Raises:
        OSError: what the disk or the bucket objects to; `place` is then as it was, or absent.
    """
    if isinstance(place, Path):
        files.publish(fresh, place)
        return
    with reaching(place):
        with fresh.open("rb") as source, place.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
        forget_listings(place)
        if place.stat().length != fresh.stat().st_size:
            place.unlink(missing_ok=True)
            raise OSError(errno.EIO, "its upload was cut off", str(place))
    fresh.unlink()


def remove(place: Place) -> None:
    """Removes a file, if it is there."""
    with reaching(place):
        place.unlink(missing_ok=True)


def remove_folder(place: Place) -> None:
    """Removes a folder with all that is in it, as far as that is possible."""
    if isinstance(place, Path):
        shutil.rmtree(place, ignore_errors=True)
        return
    forget_listings(place)
    with contextlib.suppress(OSError), reaching(place):
        place.rmtree(missing_ok=True)


def forget_listings(place: Place) -> None:
    """Has a folder of a bucket listed anew: others write to it too, and gcsfs keeps what it saw."""
    if is_remote(place):
        backend.fsspec_backend.fs(place).invalidate_cache(os.fspath(place))
