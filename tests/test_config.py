import dataclasses
import pathlib
import textwrap
from typing import Any, Literal

import pytest
from ml_collections import ConfigDict

from tgvlm_jax import config as config_lib
from tgvlm_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None
    schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self):
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, got {self.lr}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    pattern: str
    rank: int = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    name: str = "tiny"
    steps: int = 100
    resume: bool = True
    optim: Optim = dataclasses.field(default_factory=Optim)
    teacher: Optim | None = None
    note: str | None = None
    seed: int | str | None = None
    trace: bool | int | str = False
    videos: tuple[str, ...] = ("a.mp4",)
    sizes: tuple[int, ...] = ()
    rules: tuple[Rule, ...] = (Rule(pattern="q_proj"),)
    weights: dict[str, float] = dataclasses.field(default_factory=lambda: {"sft": 1.0})


@pytest.fixture
def config():
    return config_lib.to_config_dict(Experiment())


def write(folder: pathlib.Path, body: str, name: str = "tiny.py") -> str:
    path = folder / name
    path.write_text(textwrap.dedent(body))
    return str(path)


def test_round_trip_keeps_every_value(config):
    assert config_lib.freeze(config, Experiment) == Experiment()
    full = Experiment(teacher=Optim(clip=2.0), note="x", seed=3, sizes=(1, 2), rules=())
    assert config_lib.freeze(config_lib.to_config_dict(full), Experiment) == full


def test_the_tree_is_locked_everywhere(config):
    with pytest.raises(AttributeError, match="lrr"):
        config.optim.lrr = 1.0
    with pytest.raises(AttributeError, match="rnak"):
        config.rules[0].rnak = 1


@pytest.mark.parametrize(
    ("item", "path", "expected"),
    [
        ("optim.lr=1e-5", "optim.lr", 1e-5),
        ("optim.lr=1", "optim.lr", 1.0),
        ("steps=2e4", "steps", 20_000),
        ("steps=1_000", "steps", 1000),
        ("resume=false", "resume", False),
        ("resume=True", "resume", True),
        ("name=none", "name", "none"),
        ("name=a=b", "name", "a=b"),
        ("optim.clip=1", "optim.clip", 1.0),
        ("optim.clip=none", "optim.clip", None),
        ("optim.betas=0.8,0.9", "optim.betas", (0.8, 0.9)),
        ("optim.betas=(0.8, 0.9)", "optim.betas", (0.8, 0.9)),
        ("sizes=[3,4]", "sizes", (3, 4)),
        ("sizes=3", "sizes", (3,)),
        ("sizes=", "sizes", ()),
        ("videos=b.mp4", "videos", ("b.mp4",)),
        ("videos=dir/b.mp4,c d.mp4", "videos", ("dir/b.mp4", "c d.mp4")),
        ("videos=('b.mp4', 'c.mp4')", "videos", ("b.mp4", "c.mp4")),
        ("videos=[b.mp4, c.mp4]", "videos", ("b.mp4", "c.mp4")),
        ("videos=1,2", "videos", ("1", "2")),
        ("note=hello", "note", "hello"),
        ("note=none", "note", None),
        ("seed=7", "seed", 7),
        ("seed=abc", "seed", "abc"),
        ("resume", "resume", True),
        ("trace", "trace", True),
        ("trace=True", "trace", True),
        ("trace=false", "trace", False),
        ("trace=5", "trace", 5),
        ("trace=10:15", "trace", "10:15"),
        ("weights.sft=2", "weights.sft", 2.0),
    ],
)
def test_override(config, item, path, expected):
    config_lib.override(config, item)
    value: Any = config
    for part in path.split("."):
        value = value[part]
    assert value == expected
    assert type(value) is type(expected)
    config_lib.freeze(config, Experiment)


def test_an_optional_key_keeps_its_type_once_set(config):
    config_lib.override(config, "optim.clip=1.5")
    with pytest.raises(InputError, match=r"'optim.clip' wants float, got 'much'"):
        config_lib.override(config, "optim.clip=much")
    config_lib.override(config, "optim.clip=none")
    assert config.optim.clip is None


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("optim.lrr=1", "unknown config key 'optim.lrr'; did you mean 'optim.lr'?"),
        ("opitm.lr=1", "unknown config key 'opitm.lr'; did you mean 'optim.lr'?"),
        ("lr=1", "unknown config key 'lr'; did you mean 'optim.lr'?"),
        ("optim.lr.x=1", "unknown config key 'optim.lr.x'; did you mean 'optim.lr'?"),
        ("stesp=1", "unknown config key 'stesp'; did you mean 'steps'?"),
        ("optim.lr=fast", "config key 'optim.lr' wants float, got 'fast'"),
        ("steps=1.5", "config key 'steps' wants int, got '1.5'"),
        ("steps=true", "config key 'steps' wants int, got 'true'"),
        ("resume=maybe", "config key 'resume' wants bool, got 'maybe'"),
        ("optim=1", "config key 'optim' is a group; set one of its keys: betas, clip, lr"),
        ("teacher=1", "config key 'teacher' is a group; set one of its keys: it is none"),
        ("trce", "config override 'trce' has no value: write trce=VALUE"),
        ("steps", "config override 'steps' has no value: write steps=VALUE"),
    ],
)
def test_a_bad_override_is_one_clear_line(config, item, message):
    before = config_lib.dump(config)
    with pytest.raises(InputError) as error:
        config_lib.override(config, item)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert config_lib.dump(config) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {"lrr": 1.0}}, "unknown config key 'optim.lrr'; did you mean 'lr'?"),
        ({"optim": 3}, "config key 'optim' wants Optim, got 3 (int)"),
        ({"steps": 1.0}, "config key 'steps' wants int, got 1.0 (float)"),
        ({"steps": True}, "config key 'steps' wants int, got True (bool)"),
        ({"steps": None}, "config key 'steps' wants int, got None (NoneType)"),
        ({"name": {"a": 1}}, "config key 'name' wants str, got a group of keys (ConfigDict)"),
        ({"optim": {"betas": (0.9,)}}, "config key 'optim.betas' wants 2 values, got 1"),
        ({"sizes": (1, "2")}, "config key 'sizes[1]' wants int, got '2' (str)"),
        ({"sizes": 4}, "config key 'sizes' wants tuple[int, ...], got 4 (int)"),
        ({"seed": 1.5}, "config key 'seed' wants int | str | None, got 1.5 (float)"),
        ({"rules": ({"rank": 4},)}, "config key 'rules[0].pattern' is missing and has no default"),
        ({"rules": ({"pattern": "a", "rnak": 4},)}, "unknown config key 'rules[0].rnak'"),
        ({"weights": {"sft": "x"}}, "config key 'weights.sft' wants float, got 'x' (str)"),
        (
            {"optim": {"schedule": "cosin"}},
            "config key 'optim.schedule': 'cosin' is not a choice; did you mean 'cosine'?",
        ),
        ({"optim": {"lr": -1.0}}, "config group 'optim': lr must be above 0, got -1.0"),
    ],
)
def test_freeze_names_the_full_path_of_what_is_wrong(changes, message):
    with pytest.raises(InputError) as error:
        config_lib.freeze(ConfigDict(changes), Experiment)
    assert str(error.value).startswith(message)


def test_freeze_takes_an_int_for_a_float():
    frozen = config_lib.freeze(ConfigDict({"optim": {"lr": 1}}), Experiment)
    assert type(frozen.optim.lr) is float


def test_parse_arg_types_come_from_the_defaults():
    arg = config_lib.parse_arg(
        "frames=96, tiny,lr=1", frames=8, tiny=False, lr=0.1, name=None, on=True
    )
    assert vars(arg) == {"frames": 96, "tiny": True, "lr": 1.0, "name": None, "on": True}
    assert type(arg.lr) is float
    assert config_lib.parse_arg("name=x", name=None).name == "x"
    assert config_lib.parse_arg("on=false", on=True).on is False
    assert config_lib.parse_arg(None, on=True).on is True


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("frame=96", "unknown config argument 'frame'; did you mean 'frames'?"),
        ("zzz", "unknown config argument 'zzz'; known: frames, tiny"),
        ("frames", "config argument 'frames' needs a value: frames=8"),
        ("frames=x", "config argument 'frames' wants int, got 'x'"),
        ("tiny=2", "config argument 'tiny' wants bool, got '2'"),
        ("frames=1,frames=2", "config argument 'frames' is given twice"),
    ],
)
def test_a_bad_argument_is_one_clear_line(arg, message):
    with pytest.raises(InputError) as error:
        config_lib.parse_arg(arg, frames=8, tiny=False)
    assert str(error.value) == message


GOOD = """
    from ml_collections import ConfigDict
    from tgvlm_jax.config import parse_arg

    def get_config(arg=None):
        arg = parse_arg(arg, frames=8)
        return ConfigDict({"frames": arg.frames, "optim": {"lr": 1e-3}})
"""


def test_load_applies_argument_and_overrides_in_order(tmp_path):
    spec = write(tmp_path, GOOD)
    config = config_lib.load(f"{spec}:frames=48", ["optim.lr=1", "optim.lr=2"])
    assert config_lib.dump(config) == "frames = 48\noptim.lr = 2.0\n"
    assert config.is_locked
    assert config_lib.load(spec).frames == 8


def test_load_sees_an_edit_at_once(tmp_path):
    spec = write(tmp_path, GOOD)
    assert config_lib.load(spec).frames == 8
    write(tmp_path, GOOD.replace("frames=8", "frames=9"))
    assert config_lib.load(spec).frames == 9


@pytest.mark.parametrize(
    ("body", "arg", "message"),
    [
        (GOOD, ":frame=4", ": unknown config argument 'frame'; did you mean 'frames'?"),
        ("x = 1", "", ": defines no get_config(arg); see the files in configs/"),
        ("def get_config():\n    return {}", "", ": get_config must return a ConfigDict"),
        ("def get_config():\n    return {}", ":a=1", ": get_config takes no argument, got 'a=1'"),
        ("import nowhere_at_all", "", ":1: ModuleNotFoundError: No module named"),
        ("def get_config(arg):\n    return 1 / 0", "", ":2: ZeroDivisionError: division by zero"),
        ("def get_config(:", "", ":1: "),
        (
            GOOD.replace("return ", "c = ") + "        c.lock().optim.lrr = 1\n        return c",
            "",
            ":8: no config key 'lrr'; did you mean 'lr'?",
        ),
    ],
)
def test_a_bad_config_file_is_one_clear_line(tmp_path, body, arg, message):
    spec = write(tmp_path, body)
    with pytest.raises(InputError) as error:
        config_lib.load(spec + arg)
    assert str(error.value).startswith(spec + message)
    assert "\n" not in str(error.value)


def test_a_missing_file_names_the_nearest(tmp_path):
    spec = write(tmp_path, GOOD)
    with pytest.raises(InputError, match=r"no config file .*tny.py'; did you mean .*tiny.py'"):
        config_lib.load(spec.replace("tiny", "tny"))


def test_dump_is_sorted_and_complete(config):
    lines = config_lib.dump(config).splitlines()
    assert lines == sorted(lines)
    assert "optim.clip = None" in lines
    assert "rules[0].rank = 8" in lines
    assert "sizes = ()" in lines
    assert "videos = ('a.mp4',)" in lines
