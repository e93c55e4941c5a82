"""The engine for Hugging Face causal language models."""

from kv_memory.engines.transformers.engine import TransformersEngine

__all__ = ["TransformersEngine"]
