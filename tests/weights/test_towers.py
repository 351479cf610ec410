"""Names and shapes of the released checkpoints, and ways there and back."""

import dataclasses

import numpy as np
import pytest

from tests.models import towers
from tgvlm_jax.models import compressor as compressors
from tgvlm_jax.models import eva_vit
from tgvlm_jax.models import qformer as qformers
from tgvlm_jax.models import timesformer as timesformers
from tgvlm_jax.schema import presets
from tgvlm_jax.weights import eva, mapping, qformer, timesformer

BLIP2_EVA = dataclasses.replace(presets.EVA_VIT_G, key_bias=True, final_norm=True)
BERT = "encoder.layer."
CASES = {
    "eva in D2VLM": (
        lambda **made: eva_vit.EvaVit(presets.EVA_VIT_G, **made),
        eva.tensors(presets.EVA_VIT_G, prefix=eva.D2VLM),
        4 + 39 * 13,
        {
            "model.vision_tower.vision_tower.cls_token": (1, 1, 1408),
            "model.vision_tower.vision_tower.pos_embed": (1, 257, 1408),
            "model.vision_tower.vision_tower.patch_embed.proj.weight": (1408, 3, 14, 14),
            "model.vision_tower.vision_tower.blocks.38.attn.q_bias": (1408,),
            "model.vision_tower.vision_tower.blocks.38.attn.qkv.weight": (4224, 1408),
            "model.vision_tower.vision_tower.blocks.0.mlp.fc2.weight": (1408, 6144),
        },
    ),
    "eva in BLIP-2": (
        lambda **made: eva_vit.EvaVit(BLIP2_EVA, **made),
        eva.tensors(BLIP2_EVA, prefix=eva.HF),
        4 + 39 * 12 + 2,
        {
            "vision_model.embeddings.class_embedding": (1, 1, 1408),
            "vision_model.embeddings.position_embedding": (1, 257, 1408),
            "vision_model.encoder.layers.38.self_attn.qkv.bias": (4224,),
            "vision_model.encoder.layers.38.self_attn.projection.weight": (1408, 1408),
            "vision_model.post_layernorm.weight": (1408,),
        },
    ),
    "compressor in D2VLM": (
        lambda **made: compressors.FrameCompressor(presets.D2VLM_COMPRESSOR, **made),
        qformer.compressor_tensors(presets.D2VLM_COMPRESSOR),
        1 + 4 + 12 * 22 + 6 * 10 + 2 + 2 + 3 * 4,
        {
            "model.qformer_query": (1, 32, 768),
            "model.qformer_ln.weight": (1408,),
            "model.qformer_proj.weight": (1408, 768),
            "model.qformer_q_proj.0.bias": (1408,),
            "model.qformer_k_proj.1.weight": (1408, 1408),
            "model.qformer_v_proj.1.weight": (3072, 1408),
            "model.qformer_bert.bert.embeddings.word_embeddings.weight": (30523, 768),
            "model.qformer_bert.bert.embeddings.LayerNorm.weight": (768,),
            f"model.qformer_bert.bert.{BERT}11.attention.self.query.weight": (768, 768),
            f"model.qformer_bert.bert.{BERT}10.crossattention.self.key.weight": (768, 1408),
            f"model.qformer_bert.bert.{BERT}10.crossattention.output.LayerNorm.bias": (768,),
            f"model.qformer_bert.bert.{BERT}11.intermediate_query.dense.weight": (3072, 768),
            f"model.qformer_bert.bert.{BERT}0.output.dense.weight": (768, 3072),
        },
    ),
    "Q-Former in BLIP-2": (
        lambda **made: qformers.Qformer(presets.QFORMER_BLIP2, **made),
        qformer.tensors(presets.QFORMER_BLIP2, prefix=qformer.HF),
        2 + 12 * 16 + 6 * 10,
        {
            "qformer.layernorm.weight": (768,),
            f"qformer.{BERT}10.crossattention.attention.value.weight": (768, 1408),
            f"qformer.{BERT}11.output_query.LayerNorm.weight": (768,),
        },
    ),
    "TimeSformer": (
        lambda **made: timesformers.Timesformer(
            dataclasses.replace(presets.TIMESFORMER_BASE_K600, labels=600), **made
        ),
        timesformer.tensors(dataclasses.replace(presets.TIMESFORMER_BASE_K600, labels=600)),
        5 + 12 * 20 + 2 + 2,
        {
            "timesformer.embeddings.time_embeddings": (1, 8, 768),
            "timesformer.encoder.layer.11.temporal_attention.attention.qkv.weight": (2304, 768),
            "timesformer.encoder.layer.11.temporal_dense.weight": (768, 768),
            "classifier.weight": (600, 768),
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_released_names_and_shapes(case):
    make, tensors, count, some = CASES[case]
    _, shapes = towers.graph_of(make)
    assert {part.path for entry in tensors for part in entry.parts} == shapes.keys()
    found = {
        name: mapping.published_shape(entry, shapes)
        for entry in tensors
        for name in mapping.numbered(entry, shapes)
    }
    assert len(found) == count
    assert {name: found.get(name) for name in some} == some
    if "crossattention" in str(some):
        crossing = {
            int(name.split(".crossattention")[0].split(".")[-1])
            for name in found
            if ".crossattention" in name
        }
        assert crossing == {0, 2, 4, 6, 8, 10}


def test_there_and_back():
    config = towers.ENCODER
    _, shapes = towers.graph_of(towers.encoder())
    tensors = eva.tensors(config.eva, prefix=eva.D2VLM, ours="eva.")
    tensors += qformer.compressor_tensors(config.compressor, ours="compressor.")
    params = towers.random_params(shapes)
    published = mapping.to_theirs(tensors, params)
    back = mapping.to_ours(tensors, published.__getitem__, shapes=shapes)
    assert back.keys() == params.keys()
    for name, value in params.items():
        np.testing.assert_array_equal(back[name], value)


def test_a_lavis_file_starts_a_compressor():
    """The same numbers under other names, and nothing for the projections."""
    config = towers.ENCODER.compressor
    _, shapes = towers.graph_of(lambda **made: compressors.FrameCompressor(config, **made))
    released = mapping.to_theirs(qformer.compressor_tensors(config), towers.random_params(shapes))
    renamed = {
        name.replace("model.qformer_bert.bert.", "Qformer.bert.")
        .replace("model.qformer_ln.", "ln_vision.")
        .replace("model.qformer_query", "query_tokens"): value
        for name, value in released.items()
    }
    tensors = qformer.lavis_tensors(config)
    found = mapping.to_ours(tensors, renamed.__getitem__, shapes=shapes)
    wanted = mapping.to_ours(
        qformer.compressor_tensors(config), released.__getitem__, shapes=shapes
    )
    assert {name.split(".")[0] for name in wanted.keys() - found.keys()} == {
        "project", "q_norm", "q", "k_norm", "k", "out_norm", "out"
    }  # fmt: skip
    for name, value in found.items():
        np.testing.assert_array_equal(value, wanted[name])


def test_the_thirds_of_a_fused_map():
    tensors = eva.tensors(towers.EVA, prefix=eva.LAVIS)
    _, shapes = towers.graph_of(lambda **made: eva_vit.EvaVit(towers.EVA, **made))
    published = mapping.to_theirs(tensors, towers.random_params(shapes))
    ours = mapping.to_ours(tensors, published.__getitem__, shapes=shapes)
    qkv = published["blocks.1.attn.qkv.weight"]
    for third, name in enumerate("qkv"):
        rows = qkv[16 * third : 16 * (third + 1)]
        got = ours[f"blocks.attention.{name}.weight"][1]  # (width, heads, size)
        np.testing.assert_array_equal(got[:, 1, 3], rows[1 * 8 + 3])
