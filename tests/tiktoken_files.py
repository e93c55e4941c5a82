"""Small tokenizers in tiktoken's form, written as models come with them: ranks, settings, and code that is not run."""

from __future__ import annotations

import base64
import json
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from kv_memory.testing.chat import CHATML

WRITTEN = (
    "The reader's letters: I'll read them, she'd said it. 中文English混合 中文 123 1234 the then there \n\n  read "
)
KIMI = [
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'d)?",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
]
"""Alternatives of a pattern as Kimi's: runs of Han characters apart, words cut at capitals."""
CODE = f"""
raise SystemExit("code of a model was run")
class TikTokenTokenizer(PreTrainedTokenizer):
    pat_str = "|".join([{", ".join(f'r"{part}"' for part in KIMI)}])
    def __init__(self, vocab_file):
        self.model = tiktoken.Encoding(name="k", pat_str=self.pat_str, mergeable_ranks=load(vocab_file))
"""
SPECIAL = ["[BOS]", "[EOS]", "<|im_start|>", "<|im_end|>"]
STRUCTURE = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
MERGES, LATER = 60, 20
"""Number of pairs in the ranks, and where the ids of STRUCTURE begin after them: the ids between are reserved."""


@cache
def ranks() -> dict[bytes, int]:
    """Return the ranks of a tokenizer that was trained on WRITTEN: all bytes, and MERGES pairs."""
    found = {bytes([byte]): byte for byte in range(256)}
    words = [[bytes([byte]) for byte in word.encode()] for word in (WRITTEN * 2).replace(" ", "| ").split("|")]
    while len(found) < 256 + MERGES:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        (one, other), _ = max(pairs.items(), key=lambda item: (item[1], item[0]))
        found.setdefault(one + other, len(found))
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == (one, other):
                    word[i : i + 2] = [one + other]
                i += 1
    return found


def special_tokens() -> dict[str, int]:
    """Return the ids of all tokens beside the ranks that have a name."""
    first = len(ranks())
    later = {text: first + LATER + i for i, text in enumerate(STRUCTURE)}
    return {text: first + i for i, text in enumerate(SPECIAL)} | later


def write_ranks(path: Path, given: dict[bytes, int] | None = None) -> None:
    """Write ranks as a tiktoken file: base64 of each token, a space, its rank."""
    lines = (base64.b64encode(token) + b" %d\n" % rank for token, rank in (given or ranks()).items())
    path.write_bytes(b"".join(lines))


def settings(**other: Any) -> dict[str, Any]:
    """Return what tokenizer_config.json says of Kimi's tokenizer; `other` in its place, None for nothing."""
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    found = {
        "tokenizer_class": "TikTokenTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
        "added_tokens_decoder": {
            str(id_): {"content": text, "special": text in SPECIAL, **flags} for text, id_ in special_tokens().items()
        },
        "additional_special_tokens": ["<|im_end|>"],
        "bos_token": "[BOS]",
        "eos_token": "[EOS]",
        **other,
    }
    return {key: value for key, value in found.items() if value is not None}


def write_kimi(folder: Path, **other: Any) -> Path:
    """Write a tokenizer with a template and code of its own, and no weights; `other`: see `settings`."""
    folder.mkdir(exist_ok=True)
    write_ranks(folder / "tiktoken.model")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings(**other)))
    (folder / "tokenization_kimi.py").write_text(CODE)
    (folder / "chat_template.jinja").write_text(CHATML)
    (folder / "config.json").write_text(json.dumps({"model_type": "deepseek_v3"}))
    return folder


def write_llama(folder: Path, kind: str = "llama", **other: Any) -> Path:
    """Write a tokenizer of a family whose pattern is known, without code, under SentencePiece's file name."""
    write_kimi(folder, auto_map=None, tokenizer_class=None, **other)
    (folder / "tokenization_kimi.py").unlink()
    (folder / "tiktoken.model").rename(folder / "tokenizer.model")
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return folder
