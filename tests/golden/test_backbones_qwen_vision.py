"""Qwen2.5-VL and Qwen3-VL against transformers: visual tokens, DeepStack, M-RoPE positions."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from tgvlm_jax.data import mrope, qwen_patches, qwen_rows
from tgvlm_jax.models.qwen_vit import QwenVisionTower
from tgvlm_jax.weights import mapping, qwen_vision
from tgvlm_jax.weights.qwen_vision import from_hf

FOLDERS = ("qwen2_5_vl", "qwen3_vl")
TOKENS = 1e-5  # absolute beside as much relative, on features of unit size
KINDS = {"image": ("pixel_values", 1), "video": ("pixel_values_videos", 2)}


class Reference:
    """One folder of vectors, with our tower holding its weights."""

    def __init__(self, folder):
        self.hf = json.loads((folder / "config.json").read_text())
        self.arrays = np.load(folder / "io.npz")
        self.config = dataclasses.replace(from_hf(self.hf), remat=False)
        self.rule = self._rule(self.hf["vision_config"])
        published = load_file(folder / "model.safetensors")
        tensors = qwen_vision.tensors(self.config)
        tower = QwenVisionTower(self.config, rngs=nnx.Rngs(0), dtype=np.dtype("float32"))
        self.graph, state = nnx.split(tower)
        shapes = {".".join(map(str, p)): v.shape for p, v in nnx.to_flat_state(state)}
        params = mapping.to_ours(tensors, published.__getitem__, shapes=shapes)
        assert {k: v.shape for k, v in params.items()} == shapes
        back = mapping.to_theirs(tensors, params)
        visual = {name for name in published if name.startswith(("visual.", "model.visual."))}
        assert set(back) == visual
        for name in visual:
            np.testing.assert_array_equal(back[name], published[name])
        self.state = nnx.from_flat_state(
            {tuple(name.split(".")): nnx.Param(value) for name, value in params.items()}
        )

    def _rule(self, vision):
        """The published limits do not matter here: patches come ready."""
        base = qwen_patches.QWEN2_5_VL if "window_size" in vision else qwen_patches.QWEN3_VL
        return dataclasses.replace(
            base,
            patch=self.config.patch,
            temporal=self.config.temporal,
            merge=self.config.merge,
            window=vision.get("window_size", 0),
            table_side=self.config.table_side,
        )

    def cases(self, array):
        return sorted({k.split(".")[0] for k in self.arrays.files if k.endswith(f".{array}")})

    def get(self, case, name):
        key = f"{case}.{name}"
        return self.arrays[key] if key in self.arrays.files else None

    def items(self, case, kind):
        """Patches of all images or all videos of a case, cut up by item."""
        grids = self.get(case, f"{kind}_grid_thw")
        if grids is None:
            return []
        sizes = [math.prod(map(int, grid)) for grid in grids]
        pixels = np.split(self.get(case, KINDS[kind][0]), np.cumsum(sizes)[:-1])
        return [
            qwen_patches.Patched(patches=rows, grid=tuple(map(int, grid)))
            for rows, grid in zip(pixels, grids, strict=True)
        ]

    def encode(self, samples, *, rows, slots):
        laid = [qwen_rows.to_rows(s, rule=self.rule, rows=rows, slots=slots) for s in samples]
        inputs = jax.tree.map(lambda *values: np.stack(values), *(one.rows for one in laid))
        run = jax.jit(lambda state, inputs: nnx.merge(self.graph, state)(inputs))
        out = jax.device_get(run(self.state, inputs))
        flat = out.tokens.reshape(len(laid), -1, self.config.out_width)
        deep = out.deepstack.reshape(len(self.config.deepstack), *flat.shape)
        return [(flat[i][one.tokens], deep[:, i][:, one.tokens]) for i, one in enumerate(laid)]


@pytest.fixture(scope="module")
def references():
    return {}


@pytest.fixture(params=FOLDERS)
def reference(request, suite, references):
    if request.param not in references:
        references[request.param] = Reference(suite / request.param)
    return references[request.param]


def check(reference, case, kind, got):
    tokens, deepstack = got
    np.testing.assert_allclose(
        tokens, reference.get(case, f"{kind}_features"), atol=TOKENS, rtol=TOKENS
    )
    wanted = reference.get(case, f"{kind}_deepstack")
    assert (wanted is None) == (not reference.config.deepstack)
    if wanted is not None:
        np.testing.assert_allclose(deepstack, wanted, atol=TOKENS, rtol=TOKENS)


@pytest.mark.parametrize("kind", KINDS)
def test_visual_tokens(reference, kind):
    cases = reference.cases(f"{kind}_features")
    assert cases
    samples = [reference.items(case, kind) for case in cases]
    # One bucket for all of them; in rows of twice the largest frame several frames share a row.
    largest = max(item.grid[1] * item.grid[2] for sample in samples for item in sample)
    for slots in (largest, 2 * largest + 4):
        rows = max(
            qwen_rows.rows_needed([item.grid for item in sample], slots=slots) for sample in samples
        )
        for case, got in zip(cases, reference.encode(samples, rows=rows, slots=slots), strict=True):
            check(reference, case, kind, got)


def prompt_items(reference, case):
    """The items of each row of a batch, in the order of its placeholders."""
    grids = {
        kind: [tuple(map(int, g)) for g in found]
        for kind in KINDS
        if (found := reference.get(case, f"{kind}_grid_thw")) is not None
    }
    seconds = reference.get(case, "second_per_grid_ts")
    seconds = iter([] if seconds is None else seconds.tolist())
    todo = {}
    for kind, found in grids.items():
        for grid in found:
            if kind == "image":
                items = [mrope.image_item(*grid[1:])]
            elif reference.config.kind == "qwen3_vl":
                items = mrope.video_frames(grid)
            else:
                items = [mrope.video_item(grid, seconds=next(seconds, 1.0))]
            todo.setdefault(KINDS[kind][1], []).extend(items)
    rows = []
    for types in reference.get(case, "mm_token_type_ids"):
        rows.append([])
        place = 0
        while place < len(types):
            if not types[place]:
                place += 1
                continue
            item = todo[types[place]].pop(0)
            rows[-1].append(item)
            place += math.prod(item.grid) // reference.config.merge**2
    assert not any(todo.values())
    return rows


@pytest.mark.parametrize("style", ["hf5", "release"])
def test_positions(reference, style):
    prefix = "release_" if style == "release" else ""
    cases = [
        case
        for case in reference.cases(f"{prefix}position_ids")
        if reference.get(case, f"{prefix}rope_deltas") is not None
    ]
    if not cases:
        pytest.skip(f"no {style} positions there")
    rate = reference.hf["vision_config"].get("tokens_per_second", 1)
    for case in cases:
        types = reference.get(case, "mm_token_type_ids")
        mask = reference.get(case, "attention_mask").astype(bool)
        for row, items in enumerate(prompt_items(reference, case)):
            got = mrope.positions(
                types[row] > 0,
                items,
                filled=mask[row],
                merge=reference.config.merge,
                tokens_per_second=rate,
                style=style,
            )
            np.testing.assert_array_equal(
                got.ids, reference.get(case, f"{prefix}position_ids")[:, row], err_msg=case
            )
            assert got.delta == reference.get(case, f"{prefix}rope_deltas")[row, 0], case
