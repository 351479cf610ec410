"""Every recorded suite has its module here, and every module its suite."""

import pathlib

import pytest


def test_modules_and_suites_are_the_same(request):
    golden = request.config.getoption("--golden")
    if golden is None:
        pytest.skip("pass --golden DIR to compare with recorded outputs")
    modules = {
        path.stem.removeprefix("test_") for path in pathlib.Path(__file__).parent.glob("test_*")
    }
    assert modules - {"suites"} == {path.name for path in golden.iterdir() if path.is_dir()}
