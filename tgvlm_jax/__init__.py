"""Temporally grounded video-language models in JAX: answer about a video and say when."""

__version__ = "0.1.0"
