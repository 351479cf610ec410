"""The sizes of D2VLM's vision part, which its published config does not say."""

from tgvlm_jax.schema import CompressorConfig, EvaConfig, FrameEncoderConfig, QformerConfig


def tower(hf):
    fixed = hf["hard_coded_in_reference"]
    vision, text, compressor = fixed["vision"], fixed["qformer"], fixed["compressor"]
    eva = EvaConfig(
        image=vision["image_size"],
        patch=vision["patch_size"],
        width=vision["width"],
        layers=vision["blocks_built"],
        heads=vision["heads"],
        hidden=vision["mlp_hidden"],
        norm_eps=vision["layer_norm_eps"],
    )
    asker = QformerConfig(
        vocab_size=text["vocab_size"],
        positions=text["max_position_embeddings"],
        width=text["hidden_size"],
        image_width=text["encoder_width"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        hidden=text["intermediate_size"],
        cross_every=text["cross_attention_freq"],
        norm_eps=text["layer_norm_eps"],
    )
    compressor = CompressorConfig(
        qformer=asker,
        queries=text["num_queries"],
        width=hf["hidden_size"],
        norm_eps=compressor["layer_norm_eps"],
    )
    return FrameEncoderConfig(eva=eva, compressor=compressor, chunk=4)
