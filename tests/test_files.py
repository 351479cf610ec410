"""Files are written whole or not at all."""

import os
import stat

import pytest

from tgvlm_jax import files
from tgvlm_jax.types import InputError


def test_write_text_replaces_the_whole_file(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "a long first text\n")
    files.write_text(path, "ünïcode\n")
    assert path.read_text(encoding="utf-8") == "ünïcode\n"
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with files.replacing(path) as scratch:
            scratch.write_text("half of the n")
            assert path.read_text() == "old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("where", "cause"),
    [("missing/a.txt", "No such file"), ("file/a.txt", "Not a directory"), ("full", "a directory")],
)
def test_what_the_disk_objects_to_is_one_line(tmp_path, where, cause):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "inside").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=cause) as caught:
        files.write_text(tmp_path / where, "text")
    assert str(caught.value).startswith(f"{tmp_path / where}: cannot be written (")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_make_folder(tmp_path):
    files.make_folder(tmp_path / "deep" / "folder")
    files.make_folder(tmp_path / "deep" / "folder")
    assert list((tmp_path / "deep" / "folder").iterdir()) == []


@pytest.mark.parametrize("below", ["", "deep"])
def test_a_folder_that_cannot_be_is_found_out_at_once(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        files.make_folder(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


def test_other_errors_are_passed_on(tmp_path):
    def fail(error):
        with files.disk_errors(tmp_path):
            raise error

    with pytest.raises(KeyError):
        fail(KeyError("a bug"))
    with pytest.raises(InputError, match=os.strerror(28)):
        fail(OSError(28, os.strerror(28)))
    with pytest.raises(InputError, match=r"cannot be written \(RESOURCE_EXHAUSTED: no room on d"):
        fail(ValueError("RESOURCE_EXHAUSTED: no\nroom on device"))  # tensorstore's
    with pytest.raises(InputError, match=r"^mine$"):
        fail(InputError("mine"))


def test_the_hint_may_be_a_better_one(tmp_path):
    with (
        pytest.raises(InputError, match=r"\(No such file\); delete some runs$"),
        files.disk_errors(tmp_path, hint="delete some runs"),
    ):
        raise FileNotFoundError(2, "No such file")


def test_what_killed_writers_left_is_cleared(tmp_path):
    """And nothing else, be its name similar."""
    stay = [
        "metrics.jsonl",
        ".metrics.jsonl.old",
        ".other.jsonl.ab12cd34",
        "metrics.jsonl.ab12cd34",
    ]
    for name in [*stay, ".metrics.jsonl.ab12cd34", ".metrics.jsonl._______z"]:
        (tmp_path / name).write_text("x")
    files.clear(tmp_path / "metrics.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)
