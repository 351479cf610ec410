"""Every experiment of configs/ as text, so that a changed default is seen wherever it counts.

UPDATE_DUMPS=1 pytest tests/configs     # writes the texts anew; then look at the diff
"""

import os
import pathlib

import pytest

from tgvlm_jax.config import dump, freeze, load
from tgvlm_jax.schema import Experiment

HERE = pathlib.Path(__file__).resolve().parent
CONFIGS = sorted((HERE.parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_as_recorded(path):
    config = load(str(path))
    freeze(config, Experiment)
    kept, text = HERE / f"{path.stem}.txt", dump(config)
    if os.environ.get("UPDATE_DUMPS") == "1":
        kept.write_text(text)
    assert kept.exists(), f"no dump of {path.name} yet: UPDATE_DUMPS=1 pytest tests/configs"
    assert text.splitlines() == kept.read_text().splitlines(), (
        f"{path.name} is not what it was; if that is meant: UPDATE_DUMPS=1 pytest tests/configs"
    )


def test_no_dump_without_its_config():
    assert {path.stem for path in HERE.glob("*.txt")} == {path.stem for path in CONFIGS}


def test_arguments_of_tiny():
    config = load(str(HERE.parent.parent / "configs" / "tiny.py") + ":steps=7,frames=16")
    assert (config.train.steps, config.data.frames) == (7, (16,))
