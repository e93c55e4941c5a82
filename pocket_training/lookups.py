"""Look-ups over the tool JSON of real trajectories: "What is the <key> of <id>?". For measuring only."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from kv_memory.synthetic.drafts import CHARACTERS_PER_TOKEN
from kv_memory.synthetic.facts import Path as Keys
from kv_memory.synthetic.values import as_text
from pocket_training.evaluate import Case

TRAJECTORIES = "tau_bench_airline.jsonl.gz"


def look_ups(file: Path, each: int = 2, tokens: int = 3800, seed: int = 0) -> list[Case]:
    """Return `each` look-ups a trajectory, over its first messages, about `tokens` tokens of them."""
    rng = Random(seed)
    cases: list[Case] = []
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            messages = _opening(json.loads(line)["messages"], tokens)
            found: dict[tuple[str, Keys], set[str]] = {}
            for message in messages:
                if message["role"] == "tool":
                    for owner, path, value in _values(_parsed(message["content"])):
                        found.setdefault((owner, path), set()).add(value)
            clear = [(*place, min(values)) for place, values in found.items() if len(values) == 1]
            for owner, path, value in rng.sample(clear, min(each, len(clear))):
                question = f"What is the {' '.join(path)} of {owner}?"
                cases.append(Case("look-up", messages, None, question, value))
    return cases


def _opening(messages: list[dict[str, Any]], tokens: int) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    left = tokens * CHARACTERS_PER_TOKEN
    for message in messages:
        left -= len(message["content"] or "") + len(json.dumps(message.get("tool_calls") or ""))
        if left < 0:
            break
        kept.append(message)
    while kept and kept[-1].get("tool_calls"):
        kept.pop()
    return kept


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _values(item: Any) -> Iterator[tuple[str, Keys, str]]:
    """Yield each value with the id of the nearest object around it that has one, and its keys from there."""
    if isinstance(item, list):
        for part in item:
            yield from _values(part)
    elif isinstance(item, dict):
        owner = next((str(value) for key, value in item.items() if _is_id(key) and isinstance(value, str)), None)
        if owner is not None:
            yield from ((owner, path, value) for path, value in _leaves(item) if value != owner)
        for part in item.values():
            yield from _values(part)


def _leaves(item: dict[str, Any], prefix: Keys = ()) -> Iterator[tuple[Keys, str]]:
    for key, value in item.items():
        if isinstance(value, dict):
            if not any(map(_is_id, value)):
                yield from _leaves(value, (*prefix, key))
        elif isinstance(value, str | int | float):
            yield (*prefix, key), as_text(value)


def _is_id(key: str) -> bool:
    return key == "id" or key.endswith(("_id", "_number"))
