"""The engines for GGUF models, over llama.cpp."""

from kv_memory.engines.llama_cpp.engine import LlamaCppEngine
from kv_memory.engines.llama_cpp.opening import engine_of, load_engine
from kv_memory.engines.llama_cpp.recurrent import LlamaCppRecurrentEngine

__all__ = ["LlamaCppEngine", "LlamaCppRecurrentEngine", "engine_of", "load_engine"]
