"""A loaded GGUF model file: its metadata, and which models are refused."""

from __future__ import annotations

import ctypes
import json
import struct
import weakref
from functools import cached_property
from pathlib import Path
from typing import Any

from kv_memory.engines.base import ConfigCheck
from kv_memory.engines.llama_cpp.library import forget_errors, last_error, library
from kv_memory.engines.reach import Reach
from kv_memory.errors import ModelError, UnsupportedModelError

MODEL_KEY = "kv_memory.model"
"""Metadata key in models that kv_memory wrote, for which model it is (kv_memory/gguf/base_model.py)."""
INSTEAD = "use a model with attention in every layer, such as Qwen3, Gemma 3 or Llama 3"
_MAGIC = b"GGUF"
_CHUNKED = "llama4"
"""The architecture whose windows llama.cpp takes for chunks; it says of a window only how long it is."""


class Model:
    """A loaded model. Adapters and contexts of it are freed before it is."""

    def __init__(self, pointer: Any, path: Path, *, owned: bool) -> None:
        """Take a pointer to a loaded model. `owned`: free the model with this object."""
        self.pointer = pointer
        self.path = path
        lib = library()
        self.vocabulary = lib.llama_model_get_vocab(pointer)
        self.vocabulary_size: int = lib.llama_vocab_n_tokens(self.vocabulary)
        self._owner: Any = None
        self.close = weakref.finalize(self, lib.llama_model_free, pointer) if owned else lambda: None

    @classmethod
    def load(cls, path: Path, *, gpu_layers: int = 0, vocabulary_only: bool = False) -> Model:
        """Load a file; with `vocabulary_only` no weights and no sizes, for its tokenizer alone.

        Raises ModelError where it is not a whole GGUF model that this llama.cpp knows.
        """
        check_is_gguf(path)
        lib = library()
        parameters = lib.llama_model_default_params()
        parameters.n_gpu_layers = gpu_layers
        parameters.vocab_only = vocabulary_only
        forget_errors()
        pointer = lib.llama_model_load_from_file(str(path).encode(), parameters)
        if not pointer:
            raise ModelError(
                f"Cannot load {path} as a model ({last_error()}); copy or convert it again, "
                "or use a newer llama-cpp-python."
            )
        return cls(pointer, path, owned=True)

    @classmethod
    def of(cls, llama: Any) -> Model:
        """Return the model of a `llama_cpp.Llama`, which must not be closed while this one is in use."""
        model = cls(llama.model, Path(llama.model_path), owned=False)
        model._owner = llama
        return model

    # NOTE: llama.cpp aborts the process when it is asked for sizes of a model of which the vocabulary alone was loaded.

    @cached_property
    def trained_context(self) -> int:
        """Return the longest sequence that the file says, in tokens."""
        return int(library().llama_model_n_ctx_train(self.pointer))

    @cached_property
    def heads(self) -> int:
        """Return the number of heads of queries."""
        return int(library().llama_model_n_head(self.pointer))

    @cached_property
    def kv_heads(self) -> int:
        """Return the number of heads of K and V."""
        return int(library().llama_model_n_head_kv(self.pointer))

    @cached_property
    def rope_type(self) -> int:
        """Return llama.cpp's number of how positions are rotated."""
        return int(library().llama_model_rope_type(self.pointer))

    @cached_property
    def window(self) -> int:
        """Return the number of tokens that a sliding window sees, or a chunk has; 0 where all layers see all."""
        return int(library().llama_model_n_swa(self.pointer))

    @cached_property
    def reach(self) -> Reach:
        """Return which cells tokens see in the layers in which they do not see all."""
        chunked = self.architecture == _CHUNKED and bool(self.window)
        return Reach(chunk=self.window) if chunked else Reach(window=self.window or None)

    def metadata(self, key: str) -> str | None:
        """Return a scalar of the file's metadata, as text; None where it has none of this key."""
        return meta_text(library().llama_model_meta_val_str, self.pointer, key)

    def number(self, key: str, default: int) -> int:
        """Return a whole number of the metadata. The key is given without the architecture before it."""
        said = self.metadata(f"{self.architecture}.{key}")
        return int(said) if said else default

    @property
    def recurrent(self) -> bool:
        """Return whether layers keep one running state of all tokens."""
        lib = library()
        return bool(lib.llama_model_is_recurrent(self.pointer) or lib.llama_model_is_hybrid(self.pointer))

    @property
    def architecture(self) -> str:
        """Return llama.cpp's name of the architecture."""
        return self.metadata("general.architecture") or "unknown"

    @property
    def known(self) -> dict[str, Any]:
        """Return what kv_memory wrote of a model that it converted: name, revision, weights and shape; else empty."""
        try:
            said = json.loads(self.metadata(MODEL_KEY) or "{}")
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    def context_length(self, wanted: int | None, *, stretched: bool) -> int:
        """Return the longest sequence: what is wanted, else what the file says.

        Raises ModelError for less than one token, and beyond what the model was trained for unless `stretched`.
        """
        if wanted is None:
            return self.trained_context
        if wanted < 1:
            raise ModelError(f"A context length is at least one token, not {wanted}.")
        if wanted > self.trained_context and not stretched:
            raise ModelError(
                f"{self.path.name} was made for {self.trained_context:,} tokens, not for {wanted:,}; give a smaller "
                "context length, or settings of the rotary embedding that stretch it (rope=... of LlamaCppEngine)."
            )
        return wanted

    def cell_bytes(self, element: int) -> int:
        """Return the memory of K and V of one cell in all layers, in numbers of `element` bytes."""
        lib = library()
        alone = lib.llama_model_n_embd(self.pointer) // max(self.heads, 1)
        # NOTE: V of latent attention is a part of K.
        parts = ("key",) if self.number("attention.kv_lora_rank", 0) else ("key", "value")
        width = sum(self.number(f"attention.{part}_length", alone) for part in parts)
        layers: int = lib.llama_model_n_layer(self.pointer)
        return layers * self.kv_heads * width * element

    def config(self) -> dict[str, Any]:
        """Return the sizes, under the names of a Hugging Face configuration."""
        lib = library()
        found = {
            "model_type": self.architecture,
            "num_hidden_layers": lib.llama_model_n_layer(self.pointer),
            "hidden_size": lib.llama_model_n_embd(self.pointer),
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary_size,
            "max_position_embeddings": self.trained_context,
        }
        return found | dict(self.known.get("shape") or {})

    def check(self) -> None:
        """Raise UnsupportedModelError where the cache cannot be edited by the cell."""
        lib, kind = library(), f"This {self.architecture} model"
        if self.recurrent:
            raise UnsupportedModelError(
                f"{kind} has recurrent layers, whose state cannot be edited by the cell; open it with Memory(path) or "
                "LlamaCppRecurrentEngine, which erase by going back to a state that was kept."
            )
        if lib.llama_model_has_encoder(self.pointer) or not lib.llama_model_has_decoder(self.pointer):
            raise UnsupportedModelError(f"{kind} is no causal language model; {INSTEAD}.")
        if self.rope_type not in (lib.LLAMA_ROPE_TYPE_NONE, lib.LLAMA_ROPE_TYPE_NORM, lib.LLAMA_ROPE_TYPE_NEOX):
            raise UnsupportedModelError(f"{kind} has positions of several axes (M-RoPE); {INSTEAD}.")
        if self.number("attention.indexer.top_k", 0):
            raise UnsupportedModelError(
                f"{kind} chooses the cells that a token sees by an index of its own; {INSTEAD}."
            )


def open_model(path: str | Path, device: str | None, check: ConfigCheck) -> Model:
    """Load a file. Raises ModelError as `Model.load` and for another `device` than the CPU, and what `check` raises,
    which is given the model's configuration."""
    if device not in (None, "cpu"):
        raise ModelError(f"GGUF models run on the CPU here, not on {device}; leave device out.")
    model = Model.load(Path(path).expanduser())
    check(model.config())
    return model


def check_is_gguf(path: Path) -> None:
    """Raise ModelError where there is no file, or it does not begin as a GGUF file does."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(head) < 24 or head[:4] != _MAGIC or struct.unpack("<I", head[4:8])[0] < 2:
        raise ModelError(f"{path} is not a whole GGUF file of version 2 or newer; copy or convert it again.")


def meta_text(function: Any, pointer: Any, key: str) -> str | None:
    """Return the text that one of llama.cpp's `..._meta_val_str` functions has for a key; None where it has none."""
    length = function(pointer, key.encode(), None, 0)
    if length < 0:
        return None
    text = ctypes.create_string_buffer(length + 1)
    function(pointer, key.encode(), text, length + 1)
    return text.raw[:length].decode("utf-8", "replace")
