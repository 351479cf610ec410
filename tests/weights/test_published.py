"""Safetensors files read by hand and written by hand agree with the library; damage is named."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.weights import checkpoints
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import published
from tgvlm_jax.weights.published import Published, Spec

RNG = np.random.default_rng(0)
TENSORS = {
    "a": RNG.standard_normal((4, 3, 2), np.float32),
    "b": RNG.standard_normal((5,)).astype(ml_dtypes.bfloat16),
    "c": RNG.standard_normal((2, 0)).astype(np.float16),
    "d": np.asarray(3.5),
    "e": RNG.standard_normal((7, 2), np.float32),
}


def test_reads_what_the_library_wrote(tmp_path):
    found = Published(checkpoints.write(tmp_path / "in", TENSORS))
    assert found.names == TENSORS.keys()
    assert "a" in found
    assert "f" not in found
    for name, value in TENSORS.items():
        assert found.shape(name) == value.shape
        assert found.is_float(name)
        read = found.read(name)
        assert read.dtype == value.dtype
        np.testing.assert_array_equal(read, value)


def test_reads_rows(tmp_path):
    found = Published(checkpoints.write(tmp_path / "in", TENSORS))
    for rows in (slice(1, 3), slice(0, 1), slice(4), slice(2, 2)):
        np.testing.assert_array_equal(found.read("a", rows), TENSORS["a"][rows])
        np.testing.assert_array_equal(found.read("b", rows), TENSORS["b"][rows])


def test_only_what_is_read_must_be_of_floats(tmp_path):
    tensors = {"ids": np.arange(3), "w": np.ones(2, np.float32)}
    found = Published(checkpoints.write(tmp_path / "in", tensors))
    assert not found.is_float("ids")
    assert found.dtype("ids") == "I64"
    np.testing.assert_array_equal(found.read("w"), tensors["w"])


def write(folder, *, shard_bytes):
    # Wide types first, as `hf.save` orders them.
    ordered = sorted(TENSORS.items(), key=lambda item: -item[1].dtype.itemsize)
    specs = [Spec(name=name, shape=v.shape, dtype=v.dtype) for name, v in ordered]
    published.write(folder, specs, iter([v for _, v in ordered]), shard_bytes=shard_bytes)


@pytest.mark.parametrize("shard_bytes", [10**9, 1, 100])
def test_the_library_reads_what_we_write(shard_bytes, tmp_path):
    write(tmp_path, shard_bytes=shard_bytes)
    checkpoints.assert_same_bits(checkpoints.read(tmp_path), TENSORS)
    for path in tmp_path.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            assert file.metadata() == {"format": "pt"}


def test_a_column_major_value_is_written_row_by_row(tmp_path):
    value = np.asfortranarray(TENSORS["a"])
    spec = Spec(name="a", shape=value.shape, dtype=value.dtype)
    published.write(tmp_path, [spec], [value], shard_bytes=10**9)
    np.testing.assert_array_equal(load_file(tmp_path / "model.safetensors")["a"], value)


def test_a_disk_that_fills_up_is_an_error_of_the_disk(small_disk):
    spec = Spec(name="a", shape=(2**20,), dtype=np.dtype(np.float32))
    with pytest.raises(OSError, match="No space left"):
        published.write(small_disk, [spec], [np.ones(spec.shape, np.float32)], shard_bytes=10**9)


def test_the_single_file_comes_before_the_index_as_in_transformers(tmp_path):
    folder = checkpoints.write(tmp_path / "in", TENSORS, files=2)
    save_file({"x": TENSORS["a"]}, folder / "model.safetensors")
    assert Published(folder).names == {"x"}
    save_file({"y": TENSORS["a"]}, folder / "adapter_model.safetensors")
    assert Published(folder, single="adapter_model.safetensors").names == {"y"}


# ------------------------------------------------------------------------------ damage


def rewrite(path, change):
    """Changes the header of a file, its length included."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = change(json.loads(data[8 : 8 + length]))
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def keep(share):
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def header(change):
    return lambda path: rewrite(path, change)


def edited(**values):
    def change(found):
        found["a"] |= values
        return found

    return header(change)


DAMAGE = {
    "no bytes": (keep(0), "no whole header"),
    "seven bytes": (lambda path: os.truncate(path, 7), "no whole header"),
    "header cut": (lambda path: os.truncate(path, 60), "no whole header"),
    "data cut": (keep(0.9), "lies behind its end"),
    "one byte less": (lambda p: os.truncate(p, p.stat().st_size - 1), "lies behind its end"),
    "a length that lies": (lambda p: p.write_bytes(b"\xff" * 200), "no whole header"),
    "html": (lambda p: p.write_text("<html>not found</html>" * 99), "no whole header"),
    "no json": (header(lambda found: b"{" * 40), "Expecting property name"),
    "no text": (header(lambda found: b"\xff" * 40), "codec can't decode"),
    "no names": (header(lambda found: []), "cut off or no safetensors file"),
    "no entries": (header(lambda found: {"a": 3}), "cut off or no safetensors file"),
    "no type": (header(lambda found: {"a": {"shape": [], "data_offsets": [0, 4]}}), "no 'dtype'"),
    "a wrong shape": (edited(shape=[4, 3, 3]), "a has not the bytes of its shape"),
    "no shape": (edited(shape=3), "cut off or no safetensors file"),
    "strange offsets": (edited(data_offsets=["x", 4]), "cut off or no safetensors file"),
}


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(damage, files, tmp_path):
    folder = checkpoints.write(tmp_path / "in", TENSORS | {"f": TENSORS["e"]}, files=files)
    # The last file that has "a": of three, that is the first.
    path = folder / ("model.safetensors" if files == 1 else "model-00001-of-00003.safetensors")
    change, says = DAMAGE[damage]
    change(path)
    with pytest.raises(InputError) as caught:
        Published(folder)
    text = str(caught.value)
    assert text.startswith(f"{path}: cut off or no safetensors file (")
    assert says in text
    assert text.endswith("; fetch it again")
    assert "\n" not in text


def test_a_later_file_that_is_cut_off_is_named(tmp_path):
    folder = checkpoints.write(tmp_path / "in", TENSORS, files=3)
    last = folder / "model-00003-of-00003.safetensors"
    os.truncate(last, last.stat().st_size - 3)
    with pytest.raises(InputError, match=f"^{last}: cut off"):
        Published(folder)


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    found = Published(checkpoints.write(tmp_path / "in", TENSORS))
    path = tmp_path / "in" / "model.safetensors"
    os.truncate(path, path.stat().st_size - 3)
    with pytest.raises(InputError, match="became shorter while it was read"):
        found.read("b")  # the narrowest are last


def test_an_index_that_names_absent_files(tmp_path):
    folder = checkpoints.write(tmp_path / "in", TENSORS, files=3)
    (folder / "model-00001-of-00003.safetensors").unlink()
    (folder / "model-00003-of-00003.safetensors").unlink()
    says = "model-00001-of-00003.safetensors, model-00003-of-00003.safetensors not there"
    with pytest.raises(InputError, match=says):
        Published(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": 3}',
        '{"weight_map": {"a": "../other/model.safetensors"}}',
    ],
)
def test_a_damaged_index_is_named(text, tmp_path):
    folder = checkpoints.write(tmp_path / "in", TENSORS, files=3)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match=r"index\.json: damaged .*; fetch it again$") as caught:
        Published(folder)
    assert "\n" not in str(caught.value)


def test_one_name_in_two_files(tmp_path):
    folder = checkpoints.write(tmp_path / "in", TENSORS, files=2)
    save_file({"a": TENSORS["a"]}, folder / "model-00002-of-00002.safetensors")
    with pytest.raises(
        InputError, match=r"a is in model-00001-of-00002\.safetensors and model-00002"
    ):
        Published(folder)


def test_a_folder_without_weights(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=r"no model\.safetensors there"):
            Published(folder)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no model\.safetensors there"):
        Published(tmp_path)
