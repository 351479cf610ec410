"""What the golden suites share: the folder of recorded outputs, and why a suite does not run yet.

A module `test_<suite>.py` compares with the files in `DIR/<suite>`, DIR being `--golden DIR`. Until
its part of the library lands it says so in `LANDS_WITH`; whoever lands the part deletes that line
and writes the comparison.
"""

import pathlib

import pytest


@pytest.fixture
def suite(request: pytest.FixtureRequest) -> pathlib.Path:
    """The folder with the recorded outputs for the module that asks."""
    golden = request.config.getoption("--golden")
    if golden is None:
        pytest.skip("pass --golden DIR to compare with recorded outputs")
    pending = getattr(request.module, "LANDS_WITH", None)
    if pending:
        pytest.skip(f"lands with {pending}")
    return folder_of(request.path, golden)


def folder_of(module: pathlib.Path, golden: pathlib.Path) -> pathlib.Path:
    """`test_backbones_text.py` and `test_backbones.py` both compare with `backbones`."""
    stem = module.stem.removeprefix("test_")
    folders = [f for f in golden.iterdir() if f.is_dir() and f"{stem}_".startswith(f"{f.name}_")]
    assert folders, f"{golden} has no folder for {module.name}"
    return max(folders, key=lambda folder: len(folder.name))
