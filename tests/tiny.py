"""Small stand-ins built on the spot: a byte-level tokenizer and the chat templates of several families."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kv_memory import Memory, Session
from kv_memory.engines.base import Engine
from kv_memory.engines.checkpoints import CheckpointSettings
from kv_memory.engines.transformers import RecurrentEngine, TransformersEngine
from kv_memory.testing.chat import tiny_model, tiny_tokenizer
from kv_memory.testing.models import tiny_hybrid

# like Mistral's and Gemma's: no system role, strict alternation, no tools, contents trimmed
STRICT = """{{ bos_token }}
{%- for message in messages %}
{%- if message.role not in ['user', 'assistant'] %}{{ raise_exception('Only user and assistant roles') }}{% endif %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
{{- '<|im_start|>' + message.role + '\n' + message.content | trim + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# like Qwen3's: the last assistant turn gets an empty thinking block that earlier ones do not have
THINKING = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{{- message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def save_tiny(folder: Path) -> Path:
    """That model and its tokenizer as files; the folder."""
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_engine(seed: int = 0, max_positions: int = 2048) -> TransformersEngine:
    """The engine over that model and a ChatML tokenizer."""
    return TransformersEngine(tiny_model(seed, max_positions), tiny_tokenizer(), name="tiny")


def hybrid_engine(checkpoints: CheckpointSettings | None = None) -> RecurrentEngine:
    """The engine over a tiny Qwen3.5 and that tokenizer."""
    model = tiny_hybrid("qwen3_5", vocab_size=272, max_position_embeddings=2048, eos_token_id=None)
    return RecurrentEngine(model, tiny_tokenizer(), name="hybrid", checkpoints=checkpoints)


def lent_memory(engine: Engine) -> Iterator[Memory]:
    """A memory over a shared engine that never heals by itself; its sessions are deleted afterwards."""
    memory = Memory(engine, heal="never")
    yield memory
    for name in memory.sessions():
        memory.delete_session(name)


def memory_of(session: Session) -> Memory:
    """The memory that a session was made by."""
    memory = session._memory
    assert isinstance(memory, Memory)
    return memory
