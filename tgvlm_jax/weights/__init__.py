"""Weights in and out: Hugging Face safetensors, PEFT adapters, Orbax."""
