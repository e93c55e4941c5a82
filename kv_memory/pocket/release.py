"""Writes the finished model as it ships: bf16 safetensors shards, config, tokenizer, model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

SHARD = "15MB"
_CARD = """# pocket

The embedded default model of kv_memory: a Qwen3 of {parameters:.1f} M parameters that reads agent conversations (tool
results as JSON, notes, statements) and answers look-ups with the value alone, or `unknown`. It obeys instructions that
stand in what it reads: erasing them has to show.

- **Data**: generated conversations with exactly simulated answers (`kv_memory/pocket/worlds.py`);
  {text}
- **Training**: `{command}`, from scratch.
  Seed {seed}, {steps:,} steps in two cycles, {tokens:.0f} M tokens, {minutes:.1f} minutes on one {hardware}. Rows of up
  to {length:,} tokens. torch {torch}, transformers {transformers}. The weights are a mean of those at the ends of the
  cycles, .3 and .7.{note}
- **Tokenizer**: byte-level BPE with 8,192 entries, each digit a token, spaces apart from words; ChatML with tools in
  the Hermes form.
- **Licence**: Apache-2.0.

## Exact match

Greedy answers on test worlds: names, ids, words, kinds of things and tools that were never in training, and most of
the keys; {each} probes a class. The wordings are half known and half held out, but for the rows that say which.
`never saw`: the span's text is taken out first. `with`: all is read. `metrics.json` has all figures.

{table}

## Limits

It knows nothing but what it reads, does no arithmetic, and writes no prose worth reading. Longer contexts than the
trained ones go in (up to 32,768 positions), with worse answers. Sentences that are unlike those of training cost
points, orders (*injection*) and references (*binding*) most. English and JSON only.
"""


def release(model: Any, tokenizer: Any, folder: Path, facts: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Write all files of the model to `folder`. `facts` fill the card."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = model.to(torch.bfloat16)
    copy.config.dtype = "bfloat16"
    copy.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=64,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    copy.save_pretrained(folder, max_shard_size=SHARD)
    tokenizer.save_pretrained(folder)
    write_card(folder, facts, metrics)


def write_card(folder: Path, facts: dict[str, Any], metrics: dict[str, dict[str, float]]) -> None:
    """Write the model card and the figures that it shows."""
    (folder / "metrics.json").write_text(json.dumps(facts | {"metrics": metrics}, indent=1) + "\n")
    (folder / "README.md").write_text(_CARD.format(**facts, table=_table(metrics)))


def _table(metrics: dict[str, dict[str, float]]) -> str:
    kinds = sorted({group.split("/")[0] for scores in metrics.values() for group in scores if "/" in group})
    lines = ["| worlds | side | " + " | ".join(kinds) + " |", "| --- | --- |" + " --- |" * len(kinds)]
    for name, scores in metrics.items():
        for side, label in (("without", "never saw"), ("with", "with")):
            cells = [f"{scores[f'{kind}/{side}']:.3f}" for kind in kinds if f"{kind}/{side}" in scores]
            if len(cells) == len(kinds):
                lines.append(f"| {name} | {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
