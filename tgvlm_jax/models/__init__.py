"""Sharded Flax NNX modules: layers, vision towers, the decoder, evidence heads, the assembly.

Modules only hold parameters; every transform is plain JAX on `nnx.split` state (design D1).
"""
