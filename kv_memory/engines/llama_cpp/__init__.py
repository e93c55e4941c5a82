"""The engine for GGUF models, over llama.cpp."""

from kv_memory.engines.llama_cpp.engine import LlamaCppEngine

__all__ = ["LlamaCppEngine"]
