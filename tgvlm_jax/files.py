"""Writing files so that a crash, a kill or a full disk leaves the old one or the new one, whole."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tgvlm_jax.errors import InputError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary sibling to write to; it takes the place of `path` when the block ends well.

    Raises:
        InputError: the folder is missing, not writable or full; `path` is as it was.
    """
    target = Path(path)
    with disk_errors(target):
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        try:
            yield Path(name)
            os.chmod(name, 0o644)
            publish(Path(name), target)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(name)


def clear(path: Path) -> None:
    """Removes what writers of a file that were killed have left beside it; nobody may write now."""
    with disk_errors(path):
        for left in path.parent.glob(f".{path.name}.????????"):
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path, *, hint: str = "") -> Iterator[Path]:
    """A temporary sibling folder to fill; it is given the name `path` when the block ends well.

    Raises:
        InputError: `path` exists, or what `disk_errors` raises; then nothing is left behind.
    """
    if path.exists():
        raise InputError(f"{path}: exists already; name another folder")
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with disk_errors(path, hint=hint):
            scratch.mkdir(parents=True)
            yield scratch
            publish(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_room(folder: Path, need: int) -> None:
    """Raises OSError where a disk has no room for that many bytes, before they are written.

    The folder need not be there yet.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if shutil.disk_usage(there).free < need:
        raise OSError(errno.ENOSPC, f"no space for {need} bytes")


def publish(fresh: Path, path: Path) -> None:
    """Gives a complete file or folder its name, in a way that survives a power cut.

    Raises:
        OSError: what the disk objects to.
    """
    _fsync(fresh)
    os.replace(fresh, path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a whole text file; raises what `replacing` raises."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def make_folder(path: str | os.PathLike[str]) -> None:
    """Makes a folder, if need be, and tries it: before the work, not after it.

    Raises:
        InputError: it cannot be made, or nothing can be written into it.
    """
    with disk_errors(path):
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass


@contextlib.contextmanager
def disk_errors(where: str | os.PathLike[str], *, hint: str = "") -> Iterator[None]:
    """Turns what the disk objects to into one line that names the place.

    Args:
        where: the place. hint: what to do, where there is something better to say.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        text = " ".join((getattr(error, "strerror", None) or str(error)).split())[:300]
        # Libraries that write by themselves have errors of their own for a full disk.
        full = "RESOURCE_EXHAUSTED" in str(error) or "No space left" in str(error)
        if not (isinstance(error, OSError) or full):
            raise
        hint = hint or "choose a place that is writable and has room"
        raise InputError(f"{where}: cannot be written ({text}); {hint}") from error
