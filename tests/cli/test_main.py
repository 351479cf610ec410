import pathlib
import subprocess
import sys
import types

import pytest
from absl import flags as absl_flags

from tgvlm_jax.cli import __main__ as cli
from tgvlm_jax.cli import flags as flags_lib
from tgvlm_jax.types import InputError

CONFIG = """
from ml_collections import ConfigDict

def get_config(arg=None):
    return ConfigDict({"frames": int(arg or 8), "optim": {"lr": 1e-3}, "resume": False})
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture
def verb(monkeypatch):
    """A verb of the tests' own, run through the real front door; its `main` can be replaced."""
    module = types.ModuleType("tgvlm_jax.cli.probe", "Probes.\n\n    $ tgvlm probe --steps 3 WORDS")
    seen = {}

    def define(flag_values):
        flags_lib.define_config(flag_values, required=False)
        flags_lib.define_positional(flag_values, "question", about="what to ask", required=False)
        absl_flags.DEFINE_integer("steps", 7, "how many", flag_values=flag_values, lower_bound=1)
        absl_flags.DEFINE_bool("loud", False, "say more", flag_values=flag_values)
        absl_flags.DEFINE_enum("kind", "a", ["a", "b"], "which", flag_values=flag_values)
        absl_flags.DEFINE_string(
            "workdir", None, "<DIR>: folder", flag_values=flag_values, required=True
        )

    def run(flags):
        seen.update({name: flags[name].value for name in flags})

    module.flags, module.main, module.seen = define, run, seen
    monkeypatch.setitem(sys.modules, "tgvlm_jax.cli.probe", module)
    monkeypatch.setitem(cli.VERBS, "probe", ("probes", "tgvlm probe"))
    return module


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_teaches_every_verb(words, capsys):
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    for name, (about, example) in cli.VERBS.items():
        assert name in out
        assert about in out
        assert f"$ {example}" in out
    assert max(map(len, out.splitlines())) <= 100


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from tgvlm_jax.cli.__main__ import main; main(['--help']);"
        "print([m for m in ('jax', 'numpy', 'ml_collections') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "tgvlm_jax", "--version"]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout.startswith("tgvlm ")


@pytest.mark.parametrize("name", list(cli.VERBS))
def test_help_of_each_verb_shows_usage_and_flags(name, capsys):
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"tgvlm {name}" in out
    assert "\nFlags:\n  -" in out or "\nFlags:\n  QUESTION" in out
    assert "VALUE " not in out.replace("KEY=VALUE ", ""), "a flag says what it takes: <DIR>: ..."
    assert max(map(len, out.splitlines())) <= 100


def test_shard_runs_through_the_front_door(tmp_path, capsys):
    films, out = pathlib.Path(__file__).parent.parent / "assets", tmp_path / "shards"
    words = ["shard", "--videos", str(films), "--out", str(out), "--fps=1", "--height=48"]
    assert cli.main([*words, "--width=64", "--workers=1"]) == 0
    assert "10 frames at 1 a second, 64 x 48 pixels" in capsys.readouterr().out
    assert (out / "manifest.json").exists()


def test_help_of_a_verb(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["probe", "--steps", "x", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Probes.\n")
    assert "  --config FILE[:ARG]  " in out
    assert "  --config.KEY=VALUE   " in out
    assert "  QUESTION             what to ask" in out
    assert "  --steps N            how many (default: 7)" in out
    assert "  --loud               say more\n" in out
    assert "  --workdir DIR        folder (required)" in out
    assert "  --kind a|b           which (default: a)" in out
    assert max(map(len, out.splitlines())) <= 80
    assert verb.seen == {}


def test_flags_config_and_words_reach_the_verb(verb, config_file):
    words = ["probe", "when, then?", "--steps=3", "--loud", "--kind", "b", "--workdir", "w"]
    config = ["--config", f"{config_file}:48", "--config.optim.lr=1", "--config.resume=true"]
    assert cli.main(words + config) == 0
    loaded = verb.seen.pop("config")
    assert verb.seen == {
        "question": "when, then?", "steps": 3, "loud": True, "kind": "b", "workdir": "w"
    }  # fmt: skip
    assert (loaded.frames, loaded.optim.lr, loaded.resume) == (48, 1.0, True)


def test_a_second_run_starts_from_the_defaults(verb):
    assert cli.main(["probe", "--steps=3", "--workdir=w"]) == 0
    assert cli.main(["probe", "--workdir=w"]) == 0
    assert verb.seen["steps"] == 7
    assert verb.seen["config"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown verb 'trian'; did you mean 'train'?"),
        (["xyz"], "unknown verb 'xyz'; known: demo, shard, games, features, train"),
        (["probe", "--stpes=3"], "unknown flag --stpes; did you mean '--steps'?"),
        (["probe", "--steps=x"], "flag --steps=x: invalid literal for int()"),
        (["probe", "--steps=0"], "flag --steps=0: 0 is not a positive integer"),
        (["probe", "--kind=c"], "flag --kind=c: value should be one of <a|b>"),
        (["probe", "--workdir"], "Missing value for flag --workdir"),
        (["probe"], "--workdir is missing (see tgvlm probe --help)"),
        (["probe", "--workdir=w", "a", "b"], "unexpected word 'b'"),
        (["probe", "--workdir=w", "--config.a=1"], "--config.a=1 needs --config FILE to change"),
        (["probe", "--workdir=w", "--config=no.py"], "no config file 'no.py'"),
        (["probe", "--workdir=w", "--config=FILE", "--config.optim.lrr=1"],
         "unknown config key 'optim.lrr'; did you mean 'optim.lr'?"),
        (["probe", "--workdir=w", "--config=FILE", "--config.optim.lr=fast"],
         "config key 'optim.lr' wants float, got 'fast'"),
        (["probe", "--workdir=w", "--config=FILE", "--config.optim.lr"],
         "config override 'optim.lr' has no value: write optim.lr=VALUE"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_exit_status_2(verb, config_file, capsys, words, message):
    assert cli.main([word.replace("FILE", config_file) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"tgvlm: error: {message}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert verb.seen == {}


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (InputError("clip.mp4: empty file"), 2, "tgvlm: error: clip.mp4: empty file\n"),
        (OSError(28, "No space left on device", "a/b"), 2, "No space left on device: 'a/b'\n"),
        (KeyboardInterrupt(), 130, "tgvlm: interrupted\n"),
    ],
)
def test_what_a_verb_raises_becomes_an_exit_status(verb, capsys, error, status, shown):
    def fail(flags):
        raise error

    verb.main = fail
    assert cli.main(["probe", "--workdir=w"]) == status
    assert capsys.readouterr().err.endswith(shown)


def test_a_traceback_on_request(verb, monkeypatch):
    def fail(flags):
        raise InputError("no")

    verb.main = fail
    monkeypatch.setenv("TGVLM_TRACEBACK", "1")
    with pytest.raises(InputError):
        cli.main(["probe", "--workdir=w"])


def test_a_bug_keeps_its_traceback(verb):
    def fail(flags):
        raise AssertionError("bug")

    verb.main = fail
    with pytest.raises(AssertionError):
        cli.main(["probe", "--workdir=w"])


def test_the_exit_status_of_a_verb_is_passed_on(verb):
    verb.main = lambda flags: 3
    assert cli.main(["probe", "--workdir=w"]) == 3


def test_a_required_word_is_asked_for():
    flag_values = absl_flags.FlagValues()
    flags_lib.define_positional(flag_values, "question", about="what to ask")
    with pytest.raises(InputError, match="QUESTION is missing"):
        flags_lib.parse(flag_values, [], program="tgvlm ask")


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m tgvlm_jax --help | true; exit ${{PIPESTATUS[0]}}"
    out = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert out.stderr == ""
