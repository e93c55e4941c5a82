"""The engines for Hugging Face causal language models."""

from kv_memory.engines.transformers.engine import TransformersEngine
from kv_memory.engines.transformers.opening import engine_of, load_engine
from kv_memory.engines.transformers.recurrent import RecurrentEngine

__all__ = ["RecurrentEngine", "TransformersEngine", "engine_of", "load_engine"]
