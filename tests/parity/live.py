"""A transformers model with numbers of a fresh seed, beside a module of ours that loaded its files.

The seed changes with every run, is shown where a test fails, and is set again by
`PARITY_SEED=... pytest -m parity`.
"""

import dataclasses
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import nnx

from tgvlm_jax.weights import hf, mapping
from tgvlm_jax.weights.mapping import Tensor

SEED = int(os.environ.get("PARITY_SEED") or secrets.randbits(31))
torch.set_num_threads(1)  # these models are too small to share out
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture at sizes of a test.

    Attributes:
        theirs: the transformers model.
        run_theirs: its outputs by name, for inputs by name; "loss" among them.
        make: our module. tensors: the map of the published names.
        run_ours: outputs of our module, with the same names.
        inputs: numpy arrays by name.
    """

    theirs: torch.nn.Module
    run_theirs: Callable[[Any, dict[str, torch.Tensor]], dict[str, torch.Tensor]]
    make: Callable[..., nnx.Module]
    tensors: list[Tensor]
    run_ours: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]
    inputs: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Outputs by name, and gradients of the loss by published name."""

    outputs: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """What both make of the same files, and the folders of either."""

    family: Family
    ours: Result
    theirs: Result
    folder: Path
    saved: Path


def random(family: str) -> np.random.Generator:
    """Numbers for one family, the same for the same seed whatever else is run."""
    print(f"PARITY_SEED={SEED}")
    return np.random.default_rng([SEED, *family.encode()])


def fill(model: torch.nn.Module, rng: np.random.Generator) -> torch.nn.Module:
    """Fills a model so that its states are of about unit size, and nothing is 0 or 1."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.from_numpy(rng.standard_normal(parameter.shape, np.float32))
            if parameter.ndim > 1:
                # Of tables and of matrices the last axes are what is summed over.
                parameter.copy_(noise / np.prod(parameter.shape[1:]) ** 0.5)
            else:
                parameter.copy_(0.2 * noise + ("norm" in name.lower() and name.endswith("weight")))
    return model.eval()


def compare(family: Family, folder: Path) -> Compared:
    """Saves theirs, loads it into ours, runs both, and saves ours."""
    family.theirs.save_pretrained(folder / "theirs")
    params = load(family, folder / "theirs")
    graph = nnx.split(nnx.eval_shape(lambda: family.make(rngs=nnx.Rngs(0))))[0]

    def loss(params, inputs):
        outputs = family.run_ours(build(graph, params), inputs)
        return outputs["loss"], outputs

    inputs = {name: jnp.asarray(value) for name, value in family.inputs.items()}
    (_, outputs), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, inputs)
    outputs, grads = jax.device_get((outputs, grads))
    ours = Result(outputs=outputs, gradients=mapping.to_theirs(family.tensors, grads))
    config = hf.read_config(folder / "theirs")
    hf.save(folder / "ours", family.tensors, params, config=config)
    return Compared(
        family=family,
        ours=ours,
        theirs=run_theirs(family, family.theirs),
        folder=folder / "theirs",
        saved=folder / "ours",
    )


def load(family: Family, folder: Path) -> dict[str, jax.Array]:
    """Our parameters from files of theirs."""
    state = nnx.state(nnx.eval_shape(lambda: family.make(rngs=nnx.Rngs(0))))
    like = {
        ".".join(map(str, path)): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for path, leaf in nnx.to_flat_state(state)
    }
    return hf.load(folder, family.tensors, like=like)


def build(graph: nnx.GraphDef, params: dict[str, jax.Array]) -> Any:
    """A module with these parameters."""
    state = {tuple(name.split(".")): nnx.Param(value) for name, value in params.items()}
    return nnx.merge(graph, nnx.from_flat_state(state))


def run_theirs(family: Family, model: torch.nn.Module) -> Result:
    """Outputs and gradients of a transformers model."""
    model.zero_grad()
    inputs = {name: torch.from_numpy(value) for name, value in family.inputs.items()}
    outputs = family.run_theirs(model, inputs)
    outputs["loss"].backward()
    gradients = {
        name: parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    outputs = {name: value.detach().numpy() for name, value in outputs.items()}
    return Result(outputs=outputs, gradients=gradients)


def assert_outputs_close(compared: Compared) -> None:
    """Logits within 1e-4, everything else within 1e-5; the unit is the largest state."""
    assert compared.ours.outputs.keys() == compared.theirs.outputs.keys()
    for name, wanted in compared.theirs.outputs.items():
        got = compared.ours.outputs[name]
        tolerance = 1e-4 if name == "logits" else 1e-5
        unit = max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * unit, err_msg=name)


def assert_gradients_close(compared: Compared) -> None:
    """Each parameter's gradient within 1e-4 of its own norm (2e-6 was measured).

    The floor is for rounding: a bias of keys has no influence, so its gradient is zero.
    """
    wanted = compared.theirs.gradients
    assert compared.ours.gradients.keys() == wanted.keys()
    norms = {name: np.linalg.norm(value) for name, value in wanted.items()}
    floor = 1e-6 * max(norms.values())
    errors = {
        name: np.linalg.norm(compared.ours.gradients[name] - value) / (norms[name] + 1e3 * floor)
        for name, value in wanted.items()
    }
    wrong = {name: error for name, error in errors.items() if not error < 1e-4}
    assert not wrong


def assert_saved_is_the_same(compared: Compared) -> None:
    """`from_pretrained` reads what we saved, and the model is the same to the last bit."""
    model = type(compared.family.theirs).from_pretrained(
        compared.saved, attn_implementation="eager"
    )
    originals = compared.family.theirs.state_dict()
    found = model.state_dict()
    assert found.keys() == originals.keys()
    for name, value in originals.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name
    again = run_theirs(compared.family, model.eval())
    for name, value in compared.theirs.outputs.items():
        np.testing.assert_allclose(again.outputs[name], value, rtol=0, atol=1e-6, err_msg=name)
