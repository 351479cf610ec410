"""tgvlm features says what it lacks before it looks at a video."""

import pathlib

import pytest

CONFIGS = pathlib.Path(__file__).resolve().parent.parent.parent / "configs"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--config {configs}/tiny.py --out {tmp}/f", "features are of takes: give a config with"),
        ("--config {configs}/profvlm_sft.py:tiny --out {tmp}", "exists already; name another"),
        (
            "--config {configs}/profvlm_sft.py:tiny --out {tmp}/f",
            "data.annotations='': name the takes, here or in data.eval_annotations",
        ),
    ],
)
def test_what_is_lacking(fails, tmp_path, words, says):
    said = fails(
        "features " + words.replace("{configs}", str(CONFIGS)).replace("{tmp}", str(tmp_path))
    )
    assert says in said
