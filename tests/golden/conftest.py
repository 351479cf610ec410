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
    folder = golden / request.path.stem.removeprefix("test_")
    assert folder.is_dir(), f"{golden} has no folder {folder.name!r}"
    return folder
