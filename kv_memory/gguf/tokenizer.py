"""A byte-level BPE tokenizer as GGUF metadata."""

from __future__ import annotations

import json
from typing import Any

import gguf

from kv_memory.errors import UnsupportedModelError

# How each family cuts text before merging, and llama.cpp's name of it.
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA = _QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
_UNKNOWN = "qwen2"
_NO_MERGE = "[no [merge"
"""A merge that never applies, for a tokenizer without merges: llama.cpp refuses an empty list."""


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, size: int, stops: list[int]) -> None:
    """Write a transformers tokenizer for a model with `size` embeddings; `stops`: ids that end a turn, main one first.

    Ids that the tokenizer does not use become tokens marked as unused. Where llama.cpp does not know how the text is
    cut before merging, `tokenizer.ggml.pre` is `qwen2`, which loads and decodes tokens correctly: only encoding text
    then needs `tokenizer.huggingface.json`. Raises UnsupportedModelError for other tokenizers than byte-level BPE.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = _known_cut(described["pre_tokenizer"] or {})
    if described["model"]["type"] != "BPE" or pre is None:
        raise UnsupportedModelError(
            "Only models with a byte-level BPE tokenizer are converted here; use llama.cpp's convert_hf_to_gguf.py."
        )
    tokens, types = _tokens(described, size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in described["model"]["merges"]]
    writer.add_token_merges(merges or [_NO_MERGE])
    starts = tokenizer.bos_token_id
    writer.add_add_bos_token(starts is not None and tokenizer("")["input_ids"][:1] == [starts])
    if starts is not None:
        writer.add_bos_token_id(starts)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if not stops:
        raise UnsupportedModelError("The model names no token that ends a turn; give its tokenizer an eos_token.")
    writer.add_eos_token_id(stops[0])
    if len(stops) > 1:
        writer.add_eot_token_id(stops[1])
    template = tokenizer.chat_template
    writer.add_string(
        "tokenizer.chat_template", (template["default"] if isinstance(template, dict) else template) or ""
    )
    writer.add_string("tokenizer.huggingface.json", json.dumps(described, ensure_ascii=False, separators=(",", ":")))


def _tokens(described: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Return text and type of each id below `size`."""
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [int(gguf.TokenType.UNUSED)] * size
    vocabulary = [(id_, text, gguf.TokenType.NORMAL) for text, id_ in described["model"]["vocab"].items()]
    added = [
        (token["id"], token["content"], gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED)
        for token in described["added_tokens"]
    ]
    for id_, text, kind in [*vocabulary, *added]:
        if id_ >= size:
            raise UnsupportedModelError(
                f"The tokenizer has a token {id_} ({text!r}) and the model embeddings for {size:,} tokens only; save "
                "the tokenizer that belongs to it."
            )
        tokens[id_], types[id_] = text, int(kind)
    return tokens, types


def _known_cut(pre_tokenizer: dict[str, Any]) -> str | None:
    """Return llama.cpp's name for a pre-tokenizer.

    _UNKNOWN for another one that ends in bytes; None where it does not.
    """
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    *before, last = steps
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return None
    patterns = [step.get("pattern", {}).get("Regex") for step in before]
    if not before and last["use_regex"]:
        return "gpt-2"
    names = {_QWEN: "qwen2", _LLAMA: "llama-bpe"}
    return names.get(patterns[0] or "", _UNKNOWN) if len(patterns) == 1 and not last["use_regex"] else _UNKNOWN
