"""Whole Qwen2.5-VL and Qwen3-VL models against transformers: states, logits, greedy tokens."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tgvlm_jax.data import mrope, qwen_patches
from tgvlm_jax.data.qwen_prompt import Bucket, Seen, prompt_row
from tgvlm_jax.models import parameters
from tgvlm_jax.ops.cross_entropy import token_log_probs
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.weights import mapping, models

FOLDERS = ("qwen2_5_vl", "qwen3_vl")
LAYERS, LOGITS, GRADIENTS = 2e-5, 1e-4, 1e-3
KINDS = {1: ("image", "pixel_values"), 2: ("video", "pixel_values_videos")}


class Reference:
    """One folder of vectors, with our model holding its weights."""

    def __init__(self, folder):
        self.hf = json.loads((folder / "config.json").read_text())
        self.names = json.loads((folder / "io.json").read_text())["parameter_names"]
        with np.load(folder / "io.npz") as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}
        self.config = models.from_hf(self.hf)
        self.blueprint = parameters.blueprint(self.config)
        self.tensors = models.tensors(self.config)
        published = load_file(folder / "model.safetensors")
        shapes = self.blueprint.shapes
        self.params = mapping.to_ours(self.tensors, published.__getitem__, shapes=shapes)
        assert {name: value.shape for name, value in self.params.items()} == shapes
        back = mapping.to_theirs(self.tensors, self.params)
        assert back.keys() == published.keys()
        for name, value in published.items():
            np.testing.assert_array_equal(back[name], value)
        vision, tower = self.hf["vision_config"], self.config.tower
        self.rate = vision.get("tokens_per_second", 1)
        published_rule = qwen_patches.QWEN2_5_VL if self.rate > 1 else qwen_patches.QWEN3_VL
        self.rule = dataclasses.replace(
            published_rule,
            patch=tower.patch,
            temporal=tower.temporal,
            merge=tower.merge,
            window=vision.get("window_size", 0),
            table_side=tower.table_side,
        )

    def get(self, case, name):
        return self.arrays.get(f"{case}.{name}")

    def cases(self, name):
        return sorted(key.split(".")[0] for key in self.arrays if key.endswith(f".{name}"))

    def patched(self, case):
        """Images and videos of a case by kind, in the order of the prompt."""
        found = {}
        for kind, (name, pixels) in KINDS.items():
            grids = self.get(case, f"{name}_grid_thw")
            grids = [] if grids is None else [tuple(map(int, grid)) for grid in grids]
            ends = np.cumsum([math.prod(grid) for grid in grids])[:-1]
            rows = np.split(self.get(case, pixels), ends) if grids else []
            found[kind] = [
                qwen_patches.Patched(patches=r, grid=g) for r, g in zip(rows, grids, strict=True)
            ]
        return found

    def prompt(self, case, *, style):
        """The rows of a case, their padding taken off and put on again at the right."""
        ids, mask = self.get(case, "input_ids"), self.get(case, "attention_mask").astype(bool)
        kinds = self.get(case, "mm_token_type_ids")
        todo = self.patched(case)
        sizes = [p.grid[1] * p.grid[2] for one in todo.values() for p in one]
        frames = sum(p.grid[0] for one in todo.values() for p in one)
        bucket = Bucket(
            length=ids.shape[1] + 3, rows=max(frames, 1), slots=max([*sizes, self.rule.merge**2])
        )
        seconds = self.get(case, "second_per_grid_ts")
        seconds = iter([] if seconds is None else seconds.tolist())
        rows = []
        for row in range(len(ids)):
            own = kinds[row][mask[row]]
            rows.append(
                prompt_row(
                    ids[row][mask[row]],
                    own > 0,
                    seen=list(self.in_order(own, todo, seconds)),
                    rule=self.rule,
                    bucket=bucket,
                    pad_id=0,
                    tokens_per_second=self.rate,
                    style=style,
                )
            )
        assert not any(todo.values())
        return jax.tree.map(lambda *values: np.stack(values), *rows)

    def in_order(self, kinds, todo, seconds):
        left = 0
        for kind in kinds:
            if kind and not left:
                one = todo[kind].pop(0)
                left = math.prod(one.grid) // self.rule.merge**2
                yield Seen(patched=one, items=tuple(self.items(kind, one.grid, seconds)))
            left -= bool(kind)

    def items(self, kind, grid, seconds):
        if KINDS[kind][0] == "image":
            return [mrope.image_item(*grid[1:])]
        if self.config.tower.kind == "qwen3_vl":
            return mrope.video_frames(grid)
        return [mrope.video_item(grid, seconds=next(seconds, 1.0))]

    def run(self, prompt):
        """Normalised states after every layer, and logits, at every slot."""
        taps = tuple(range(self.config.decoder.layers))

        @jax.jit
        def run(params, prompt):
            model = self.blueprint.build(params)
            states = model.states(prompt, taps=taps)
            hidden = [*(states.taps[tap] for tap in taps), model.decoder.norm(states.final)]
            return jnp.stack(hidden), model.decoder.logits(states.final)

        return jax.device_get(run(self.params, prompt))


@pytest.fixture(scope="module")
def references():
    return {}


@pytest.fixture(params=FOLDERS)
def reference(request, suite, references):
    if request.param not in references:
        references[request.param] = Reference(suite / request.param)
    return references[request.param]


@pytest.mark.parametrize("style", ["hf5", "release"])
def test_states_and_logits(reference, style):
    wanted_logits = "logits" if style == "hf5" else "release_logits"
    cases = [c for c in reference.cases(wanted_logits) if reference.get(c, "input_ids") is not None]
    if not cases:
        pytest.skip(f"no {style} logits there")
    for case in cases:
        hidden, logits = reference.run(reference.prompt(case, style=style))
        mask = reference.get(case, "attention_mask").astype(bool)
        columns = reference.get(case, "logits_columns")
        for row, filled in enumerate(mask):
            where = np.cumsum(filled) - 1  # of each of their slots in ours
            counted = columns[filled[columns]]
            wanted = reference.get(case, wanted_logits)[row][filled[columns]]
            np.testing.assert_allclose(
                logits[row, where[counted]], wanted, atol=LOGITS, rtol=0, err_msg=case
            )
            ours = hidden[:, row, : filled.sum()]
            if style == "hf5" and (last := reference.get(case, "last_hidden_state")) is not None:
                np.testing.assert_allclose(ours[-1], last[row][filled], atol=LAYERS, rtol=1e-5)
            if style == "hf5" and (every := reference.get(case, "hidden_states")) is not None:
                wanted, kinds = every[:, row][:, filled], reference.get(case, "mm_token_type_ids")
                # Theirs are taken before DeepStack is added to what is seen, ours behind it.
                levels = np.arange(len(wanted))[:, None]
                added = (levels >= 1) & (levels <= len(reference.config.tower.deepstack))
                same = ~(added & (kinds[row][filled] > 0))
                np.testing.assert_allclose(ours[same], wanted[same], atol=LAYERS, rtol=1e-5)


def test_loss_and_gradient_norms(reference):
    labels = reference.get("train", "labels")
    if labels is None:
        pytest.skip("no training case there")
    prompt = jax.device_put(reference.prompt("image_and_video", style="hf5"))
    width = prompt.tokens.shape[1]
    labels = np.pad(labels, ((0, 0), (0, width - labels.shape[1])), constant_values=-100)

    def loss(params):
        model = reference.blueprint.build(params)
        states = model.states(prompt).final[:, :-1]
        wanted = jnp.asarray(labels[:, 1:])
        log_probs = token_log_probs(
            model.decoder.norm(states), model.decoder.head(), jnp.maximum(wanted, 0)
        )
        counted = wanted >= 0
        return -jnp.sum(jnp.where(counted, log_probs, 0.0)) / jnp.sum(counted.astype(jnp.float32))

    value, grads = jax.jit(jax.value_and_grad(loss))(reference.params)
    np.testing.assert_allclose(value, reference.get("train", "loss"), rtol=1e-5)
    theirs = mapping.to_theirs(reference.tensors, jax.device_get(grads))
    if reference.config.tower.kind == "qwen2_5_vl":  # modules are named otherwise than files
        theirs = {
            f"model.{n}" if n.startswith("visual.") else
            n.replace("model.", "model.language_model.", 1): value
            for n, value in theirs.items()
        }  # fmt: skip
    norms = [np.linalg.norm(theirs[name]) for name in reference.names]
    wanted = reference.get("train", "grad_norm")
    np.testing.assert_allclose(norms, wanted, rtol=GRADIENTS, atol=1e-6 * wanted.max())


def test_greedy_tokens(reference):
    """From a prompt that is read once, each token through the cache."""
    for case in reference.cases("new_ids"):
        style = "release" if case.startswith("release_") else "hf5"
        source = case.removeprefix("release_").removeprefix("generate_")
        wanted = reference.get(case, "new_ids")
        end = reference.hf["text_config"].get("eos_token_id", -1)
        found = generate(
            reference.params,
            reference.prompt(source, style=style),
            blueprint=reference.blueprint,
            max_tokens=wanted.shape[1],
            end_id=end,
            pad_id=-1,
        )
        for ours, theirs in zip(np.asarray(found.tokens), wanted, strict=True):
            ended = np.flatnonzero(theirs == end)
            stop = ended[0] + 1 if len(ended) else len(theirs)
            np.testing.assert_array_equal(ours[:stop], theirs[:stop], err_msg=case)
