"""The release of the finished model: bf16 safetensors shards, config, tokenizer, model card."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

SHARD = "15MB"
_CARD = """# pocket

The embedded default model of kv_memory: a Qwen3 of {parameters:.1f} M parameters that reads agent conversations (tool
results, documents, notes, statements, wishes of the user) and answers look-ups with the value alone, or `unknown`, and
calls tools. It obeys instructions that stand in what it reads: erasing them has to show.

- **Data**: generated conversations with exactly simulated answers (`kv_memory/synthetic/worlds.py`); {text}
- **Training**: `{command}`, from scratch. Seed {seed}, {steps:,} steps in six cycles, {tokens:.0f} M tokens,
  {minutes:.1f} minutes on {hardware}. Rows of up to {length:,} tokens, a quarter of them with holes in
  their positions, up to position 12,288. torch {torch}, transformers {transformers}. The weights are a mean of those
  at the ends of the last two cycles, {shares}.{note}
- **Tokenizer**: byte-level BPE with 8,192 entries, each digit and each letter of a word in capitals a token, spaces
  apart from words; ChatML with tools in the Hermes form.
- **Licence**: Apache-2.0.

## Exact match

Greedy answers on test worlds: names, ids, words, kinds of things and tools that were never in training, and most of
the keys; about {each} questions a class. Held-out sentences: every part of a sentence that has wordings kept for
testing uses one of those. A call is right with the exact name and arguments, and where no tool is needed when none is
called. The first table has never read the span that the question is about; the second has read all,
on a third of the questions. `metrics.json` has all figures and examples of wrong answers.

{never}

{read}

Real text, with nothing erased:

{real}

## Limits

It knows nothing but what it reads, does no arithmetic, and writes no prose worth reading. Longer contexts than the
trained ones go in (up to 32,768 positions), with worse answers. English and JSON only.
"""


def release(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write all files of the model but its card to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = type(model)(deepcopy(model.config)).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.config.dtype = "bfloat16"
    copy.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=64,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    copy.save_pretrained(folder, max_shard_size=SHARD)
    tokenizer.save_pretrained(folder)


def write_card(folder: Path, facts: dict[str, Any]) -> None:
    """Write the model card and the figures that it shows, `facts["metrics"]` among them."""
    (folder / "metrics.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    metrics = facts["metrics"]
    tables = {"never": _table(metrics, "without"), "read": _table(metrics, "with"), "real": _real(metrics)}
    (folder / "README.md").write_text(_CARD.format(**facts, **tables))


def _table(metrics: dict[str, dict[str, float]], side: str) -> str:
    """Return the table of the suites of worlds, by class."""
    suites = {name: scores for name, scores in metrics.items() if any("/" in group for group in scores)}
    kinds = list(dict.fromkeys(group.split("/")[0] for scores in suites.values() for group in scores))
    head = "never saw" if side == "without" else "with the span"
    lines = [f"| {head} | " + " | ".join(kinds) + " |", "| --- |" + " --- |" * len(kinds)]
    for name, scores in suites.items():
        lines.append(f"| {name} | " + " | ".join(f"{scores[f'{kind}/{side}']:.3f}" for kind in kinds) + " |")
    return "\n".join(lines)


def _real(metrics: dict[str, dict[str, float]]) -> str:
    lines = ["| real text | exact match |", "| --- | --- |"]
    for name, scores in metrics.items():
        for group, share in scores.items():
            if "/" not in group:
                lines.append(f"| {name}: {group} | {share:.3f} |")
    return "\n".join(lines)
