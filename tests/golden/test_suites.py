"""Every recorded suite has its module here, and every module its suite."""

import pathlib

import pytest

from tests.golden.conftest import folder_of

STEM = pathlib.Path(__file__).stem


def test_modules_and_suites_are_the_same(request):
    golden = request.config.getoption("--golden")
    if golden is None:
        pytest.skip("pass --golden DIR to compare with recorded outputs")
    modules = [path for path in pathlib.Path(__file__).parent.glob("test_*") if path.stem != STEM]
    compared = {folder_of(path, golden) for path in modules}
    assert compared == {path for path in golden.iterdir() if path.is_dir()}
