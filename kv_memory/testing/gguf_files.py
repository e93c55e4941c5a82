"""Small GGUF files as other converters write them, made of one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf

HUGGING_FACE = "tokenizer.huggingface.json"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6


def changed(path: Path, out: Path, values: Mapping[str, Any]) -> Path:
    """Copy a GGUF file with other metadata: a value for each key, None for a key that the copy is to lack."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, architecture)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in (*values, "general.architecture"):
            element = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], element)
    for key, value in values.items():
        if value is not None:
            number = isinstance(value, int) and not isinstance(value, bool)
            kind = gguf.GGUFValueType.UINT32 if number else gguf.GGUFValueType.get_type(value)
            element = gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else None
            writer.add_key_value(key, value, kind, element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def with_bytes(path: Path, out: Path) -> Path:
    """Copy a model of ours without its Hugging Face tokenizer: llama.cpp's own of its vocabulary is left."""
    return changed(path, out, {HUGGING_FACE: None})


def with_sentencepiece(path: Path, out: Path) -> Path:
    """Copy the tiny chat model (chat.py) with a SentencePiece vocabulary, which puts a space before a text."""
    words = ["\u2581", "a", "n", '"', "{", "}", '":', "\u2581{"]
    structure = ["<|im_start|>", "<|im_end|>"]
    calls = ["<tool_call>", "</tool_call>", "<tool_response>"]
    tokens = ["<unk>", "</s>", *structure, *calls, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, _CONTROL, *[_USER_DEFINED] * 3, *[_BYTE] * 256, *[_NORMAL] * len(words)]
    size = len(gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents())
    kinds += [_USER_DEFINED] * (size - len(tokens))
    tokens += [f"<unused{i}>" for i in range(size - len(tokens))]
    values = {
        HUGGING_FACE: None,
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [-float(i) for i in range(size)],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.eot_token_id": None,
        "tokenizer.ggml.padding_token_id": None,
        "tokenizer.ggml.add_space_prefix": True,
    }
    return changed(path, out, values)
