"""The table of chips: the right line for a device's name, and figures that hang together."""

import jax
import pytest

from tgvlm_jax.train import chips


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5e", 197e12),
        ("TPU v6 lite", 918e12),
        ("TPU7x", 1153.5e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
    ],
)
def test_the_nearest_name_counts(kind, flops):
    assert chips.find(kind).flops == flops


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA L40S", "TPU v4 lite", "NVIDIA GeForce RTX 4090"])
def test_what_is_not_listed_is_unknown(kind):
    assert chips.find(kind) is None


def test_memory_tells_cards_of_one_name_apart():
    assert chips.find("NVIDIA A100-SXM4-40GB").memory == 40
    assert chips.find("NVIDIA A100-SXM4-80GB").memory == 80


def test_a_cpu_has_no_published_peak():
    assert chips.of(jax.devices("cpu")[0]) is None


@pytest.mark.parametrize("name", chips.CHIPS)
def test_figures_are_of_one_device(name):
    chip = chips.CHIPS[name]
    # Every line: FLOP a byte of memory traffic between 150 and 600, links slower than memory.
    assert 150 < chip.flops / chip.bandwidth < 600
    assert chip.links < chip.bandwidth
    assert chip.network < max(chip.links, 1)
    # 95 GiB are published of v5p, and its compiler allows 95.73.
    assert chip.usable <= chip.memory * 1.01
