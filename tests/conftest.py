"""The ground every test stands on; all of it is set before jax is first imported.

Eight fake CPU devices, strict dtype promotion, every jaxtyping annotation of tgvlm_jax checked by
beartype, and a compilation cache that lives as long as `.pytest_cache` does.
"""

import os
import pathlib
import subprocess

import pytest
from jaxtyping import install_import_hook

ROOT = pathlib.Path(__file__).resolve().parent.parent

os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the suite's time is XLA compiling small programs: unoptimised code compiles ten times
# faster, and what was compiled is kept (below), however quick it was.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        os.environ.get("XLA_FLAGS", ""),
    ]
).strip()
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# The numeric tower of PEP 484: an int will do where a float is asked for.
install_import_hook(
    "tgvlm_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="DIR",
        type=pathlib.Path,
        default=None,
        help="folder with the golden suites (one sub-folder each); without it tests/golden skips",
    )


def pytest_configure(config: pytest.Config) -> None:
    golden = config.getoption("--golden")
    if golden is not None and not golden.is_dir():
        raise pytest.UsageError(f"--golden {golden}: no such folder")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
