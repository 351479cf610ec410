"""What a process that would join others is told; the joining itself is in tests/multiprocess."""

import dataclasses
import socket

import jax
import pytest

from tests.models.tiny import EXPERIMENT
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.schema import MeshConfig, TrainConfig
from tgvlm_jax.train import distributed
from tgvlm_jax.types import InputError


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a:1", None, None), "--processes and --process_id missing: .* go together"),
        ((None, 2, 0), "--coordinator missing"),
        (("a:1", 2, 2), "--process_id 2: with --processes 2 from 0 to 1"),
        (("a:1", 0, 0), "--process_id 0: with --processes 0"),
        (("somewhere", 2, 0), "--coordinator somewhere: give host:port"),
        (("a:b", 2, 0), "--coordinator a:b: give host:port"),
    ],
)
def test_arguments_that_do_not_fit(arguments, says):
    with pytest.raises(InputError, match=says):
        distributed.join(*arguments)


def test_nobody_at_the_coordinator():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and does not listen
        address = "{}:{}".format(*probe.getsockname())
        with pytest.raises(InputError, match=rf"--coordinator {address}: nobody answers there"):
            distributed.join(address, 2, 1, timeout=0)


def test_a_process_alone_joins_nobody(monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    distributed.join()
    distributed.join("127.0.0.1:1", 1, 0)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    distributed.join()
    assert not distributed.joined()
    assert distributed.host() == 0
    assert distributed.gather({"a": 0.1}) == [{"a": 0.1}]
    distributed.agree(EXPERIMENT)


def test_hosts_that_were_given_something_else():
    facts = [
        distributed.facts(dataclasses.replace(EXPERIMENT, train=TrainConfig(steps=steps)))
        for steps in (5, 5, 6)
    ]
    distributed.compare(facts[:2])
    with pytest.raises(InputError, match=r"^host 2 has train\.steps=6, host 0 has 5; start"):
        distributed.compare(facts)
    other = dataclasses.replace(EXPERIMENT, mesh=MeshConfig(tp=2), seed=5)
    with pytest.raises(InputError, match=r"host 1 has seed=5, host 0 has 0 \(and 1 more\)"):
        distributed.compare([distributed.facts(EXPERIMENT), distributed.facts(other)])
    threads = dataclasses.replace(EXPERIMENT.data, threads=17)
    alike = dataclasses.replace(EXPERIMENT, data=threads)
    distributed.compare([distributed.facts(EXPERIMENT), distributed.facts(alike)])


def test_rows_of_a_host_are_those_of_its_devices():
    """All of them here; which devices another host has, a mesh of pretended hosts says."""
    mesh = mesh_lib.make(MeshConfig(fsdp=4, tp=2))
    assert mesh_lib.own_rows(mesh, 8) == tuple(range(8))
    assert mesh_lib.own_rows(None, 8) == tuple(range(8))
    assert mesh_lib.own_rows(mesh, 8, host=jax.process_count()) == ()


@pytest.mark.parametrize(
    ("owned", "fits"),
    [
        ([(0, 1), (2, 3)], True),
        ([(0, 2), (1, 3)], True),
        ([(0, 1), (0, 1), (2, 3), (2, 3)], True),
        ([(0, 1, 2), (3,)], False),
        ([(0, 1), (1, 2), (2, 3)], False),
        ([(0, 1), (0, 1)], False),
    ],
)
def test_hosts_read_the_same_rows_or_others(owned, fits):
    assert distributed.rows_fit(owned, 4) == fits
