"""The house rules that a machine can check: who may import whom, and how big things may get."""

import ast
import pathlib
import re
import statistics
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tgvlm_jax"
FOLDERS = ("tgvlm_jax", "tests", "configs", "benchmarks", "notebooks", "docs", ".ci")

BASE = {"errors", "types", "files", "config", "schema", "mesh"}
SEES = {
    "errors": set(),
    "types": {"errors"},
    "files": {"errors"},
    "config": {"types"},
    "schema": {"types", "config"},
    "mesh": {"types", "config", "schema"},
    "grounding": BASE,
    "ops": BASE,
    "models": BASE | {"grounding", "ops"},
    "weights": BASE | {"grounding", "ops", "models"},
    "data": {"errors", "types", "files", "config", "schema", "grounding"},
    "text": {"types"},
    "rewards": {"types", "grounding", "text"},
    "judges": {"types", "files", "schema", "text"},
    "evaluation": {"types", "grounding", "text"},
    "objectives": BASE | {"grounding", "ops", "models"},
    "rollout": BASE | {"grounding", "ops", "models"},
    "train": BASE
    | {"grounding", "ops", "models", "weights", "data", "rewards", "objectives", "rollout"}
    | {"judges", "text"},
    "report": {"types", "files", "grounding", "text"},
}
# Programs of `train`, compiled for chips that are not there and not run.
SEES["plan"] = BASE | {"data", "models", "objectives", "rollout", "train"}
EVERYTHING = {*SEES, "evaluation", "cli"}
SEES["cli"] = SEES["__main__"] = EVERYTHING
SEES["__init__"] = set()
# One file, what more it may see, and why.
EXCEPTIONS = {
    # Metrics are pure; the runner is what brings a model and data to them.
    "evaluation/runner.py": BASE | {"data", "models", "ops", "rollout"},
    # The CoT job checks traces with the parsers of the reward, and asks a judge.
    "data/cot.py": {"rewards", "judges"},
    # Scores of training tasks: their parsers and blind answers are those of the reward.
    "evaluation/pretext.py": {"rewards"},
    "evaluation/viubench.py": {"rewards"},
}

# Imported at the top of a module only when it is a core dependency in pyproject.toml; whatever
# belongs to an extra is imported inside the function that needs it.
THIRD_PARTY = {
    "PIL", "absl", "array_record", "av", "einops", "etils", "flax", "grain", "jax", "jaxtyping",
    "ml_collections", "numpy", "optax", "orbax", "safetensors", "scipy", "simplejpeg",
    "tensorflow_datasets", "tokenizers", "tqdm", "transformers",
}  # fmt: skip


def python_files(*folders):
    return sorted(path for name in folders for path in (ROOT / name).rglob("*.py"))


def relative(path):
    return path.relative_to(ROOT).as_posix()


def imported(tree, path):
    """Yields (module, line, at_top) for every import; relative ones are resolved."""
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno}: write the import in full"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno, id(node) in top


def parts_seen(path):
    """Yields (part of tgvlm_jax, line) for every import of the package itself."""
    for module, line, _ in imported(ast.parse(path.read_text()), path):
        names = module.split(".")
        if names[0] == "tgvlm_jax" and len(names) > 1 and names[1] != "__version__":
            yield names[1], line


def test_imports_run_one_way():
    wrong = []
    for path in python_files("tgvlm_jax"):
        inside = path.relative_to(PACKAGE)
        part = inside.parts[0].removesuffix(".py")
        if part == "assets":
            continue
        assert part in SEES, f"{relative(path)}: give {part!r} its place in this table"
        allowed = SEES[part] | {part} | EXCEPTIONS.get(inside.as_posix(), set())
        wrong += [
            f"{relative(path)}:{line}: {part} must not import {seen}"
            for seen, line in parts_seen(path)
            if seen not in allowed
        ]
    assert not wrong, "\n".join(wrong)


def test_configs_see_only_config_and_schema():
    wrong = [
        f"{relative(path)}:{line}: a config file must not import tgvlm_jax.{seen}"
        for path in python_files("configs")
        for seen, line in parts_seen(path)
        if seen not in ("config", "schema")
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_start_with_core_dependencies_only():
    allowed = THIRD_PARTY | {"tgvlm_jax"} | set(sys.stdlib_module_names)
    wrong = [
        f"{relative(path)}:{line}: {module} is no core dependency; import it where it is used"
        for path in python_files("tgvlm_jax", "configs")
        for module, line, at_top in imported(ast.parse(path.read_text()), path)
        if at_top and module.split(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_core_dependencies_are_the_ones_named_here():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", item)[0].replace("-", "_") for item in project["dependencies"]}
    renamed = {"absl_py": "absl", "orbax_checkpoint": "orbax", "pillow": "PIL"}
    assert {renamed.get(name, name) for name in declared} == THIRD_PARTY
    for name in ("tensorflow", "torch"):
        assert name not in declared


def test_every_package_folder_is_a_package():
    folders = {path.parent for path in python_files("tgvlm_jax")} - {PACKAGE / "assets"}
    assert [relative(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_files_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in python_files(*FOLDERS)}
    assert [relative(path) for path, lines in lengths.items() if lines > 600] == []
    source = [lines for path, lines in lengths.items() if PACKAGE in path.parents]
    assert statistics.median(source) < 200


def test_functions_are_short():
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    long = [
        f"{relative(path)}:{node.lineno}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in python_files(*FOLDERS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, functions) and node.end_lineno - node.lineno + 1 > 60
    ]
    assert not long, "\n".join(long)


def test_there_is_no_drawer_for_odds_and_ends():
    names = {"utils", "util", "helpers", "misc", "common"}
    assert [relative(path) for path in python_files(*FOLDERS) if path.stem in names] == []


def text_files():
    found = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    found += [path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.is_file()]
    for path in found:
        if "__pycache__" in path.parts:
            continue
        try:
            yield path, path.read_text()
        except UnicodeDecodeError:  # a film, an image
            continue


@pytest.mark.parametrize("start", ["work", "home", "root", "Users", "tmp/lab"])
def test_no_path_of_one_machine(start):
    pattern = re.compile(rf"(?<![\w.\-/}}])/{start}/\w")
    wrong = [
        f"{relative(path)}:{text[: found.start()].count(chr(10)) + 1}"
        for path, text in text_files()
        for found in pattern.finditer(text)
    ]
    assert not wrong, "\n".join(wrong)
