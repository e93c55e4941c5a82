"""Which models work, from the conformance suite on tiny random models of each: python -m benchmarks.models

Runs the suite on all of them, with every engine, and writes what passed, what each engine can do with each model, the
memory of a session at the shape that transformers has as a default, and what is refused in which words. The table of
docs/models.md is made from it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedConfig

from benchmarks import record
from kv_memory.engines.base import Engine
from kv_memory.engines.registry import open_engine
from kv_memory.engines.transformers.probe import reaches
from kv_memory.engines.transformers.recurrent_cache import recurrent_kinds
from kv_memory.erasers import ERASERS
from kv_memory.errors import UnsupportedModelError
from kv_memory.testing import models as tiny

TOKENS = 32_768
EDITABLE = 4_096
"""Last tokens that stay editable in the column of the memory with rows given back."""
SUITES = ("tests/conformance",)
DEFAULTS: dict[str, dict[str, Any]] = {"mistral": {"sliding_window": None}, "phi3-window": {"sliding_window": 2047}}
"""Settings in which a tiny model differs from what transformers has as a default of its kind."""


class Collector:
    """Counts the outcomes of tests by engine and model."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.failed: dict[tuple[str, str], list[str]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one phase of a test, where the test says on which engine and model it ran."""
        said = dict(report.user_properties)
        if "model" not in said or (report.when != "call" and report.passed):
            return
        key = str(said["engine"]), str(said["model"])
        self.counts[key][report.outcome] += 1
        if report.failed:
            self.failed[key].append(report.nodeid.partition("::")[2])


def run_suite(processes: int) -> Collector:
    """Run the conformance suites on all models."""
    os.environ["KV_MEMORY_ALL_MODELS"] = "1"
    found = Collector()
    options = ["-q", "-p", "no:asyncio", "-n", str(processes), "--dist", "loadscope", *SUITES]
    pytest.main(options, plugins=[found])
    return found


def abilities(engine: Engine) -> dict[str, Any]:
    """Return which erasers run on an engine, and why the others do not."""
    lacking = {name: dict(made.lacking(engine)) for name, made in ((name, kind()) for name, kind in ERASERS.items())}
    # a trained eraser is something to be loaded, not something that a model lacks
    lacking = {name: {n: why for n, why in reasons.items() if n != "steering"} for name, reasons in lacking.items()}
    return {
        "erasers": [name for name, reasons in lacking.items() if not reasons],
        "lacking": sorted({why for reasons in lacking.values() for why in reasons.values()}),
        "unproven": engine.unproven,
    }


def session_bytes(config: Any, tokens: int, editable: int | None = None, element: int = 2) -> int:
    """Return the memory of K and V of a session in numbers of `element` bytes, as TransformersEngine keeps them.

    `editable`: see TransformersEngine's editable_tokens.
    """
    total = 0
    shared = getattr(config, "num_kv_shared_layers", 0) or 0
    for layer, reach in enumerate(reaches(config)[: config.num_hidden_layers - shared]):
        kept = tokens
        if editable is not None and not reach.whole:
            kept = min(tokens, (reach.window or reach.chunk or 0) + editable)
        total += kept * cell_numbers(config, layer) * element
    return total


def cell_numbers(config: Any, layer: int) -> int:
    """Return how many numbers a layer keeps of a token."""
    own = getattr(config, "per_layer_config", {layer: config})[layer]
    if getattr(own, "kv_lora_rank", None):
        return int(own.kv_lora_rank + own.qk_rope_head_dim)
    width = getattr(own, "head_dim", None) or own.hidden_size // own.num_attention_heads
    return int(2 * own.num_key_value_heads * width)


def refusals() -> Iterator[dict[str, str]]:
    """Give what each model that is refused is told."""
    from kv_memory.engines.transformers import engine_of
    from kv_memory.engines.transformers.loading import class_of
    from tests.engines.test_refusals import REFUSED

    for name, (config, _) in REFUSED.items():
        if recurrent_kinds(config):
            continue  # another engine takes it
        try:
            engine_of(class_of(config).from_config(config), tiny.tokenizer())
        except UnsupportedModelError as error:
            yield {"kind": name, "type": config.model_type, "said": str(error)}


def described(name: str, config: PreTrainedConfig) -> dict[str, Any]:
    """Return a model's layers in words, and the memory of a session at the default shape of its kind."""
    text = config.get_text_config(decoder=True)
    if kinds := recurrent_kinds(config):
        return {"recurrent": sorted(set(kinds))}
    try:
        default = type(text)(**DEFAULTS.get(name, {}))
        reach = reaches(default)
    except (UnsupportedModelError, ValueError, TypeError):
        return {}
    whole = sum(each.whole for each in reach)
    size = next((f"window {each.window:,}" for each in reach if each.window), "")
    size = size or next((f"chunks of {each.chunk:,}" for each in reach if each.chunk), "")
    found: dict[str, Any] = {
        "layers": len(reach),
        "see_all": whole,
        "others": size,
        "latent": bool(getattr(default, "kv_lora_rank", None)),
        "gigabytes": session_bytes(default, TOKENS) / 1e9,
    }
    if whole < len(reach):
        found["gigabytes_given_back"] = session_bytes(default, TOKENS, EDITABLE) / 1e9
    return found


def main() -> None:
    """Run the suites and write the result; exits with 1 where a test failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    processes = parser.parse_args().processes
    found = run_suite(processes)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for (engine, name), counts in sorted(found.counts.items()):
            row: dict[str, Any] = {"engine": engine, "model": name, **counts, "failures": found.failed[engine, name]}
            if engine in ("TransformersEngine", "RecurrentEngine") and name in tiny.ALL:
                path = tiny.save_model(name, Path(folder) / f"{engine}-{name}")
                row |= abilities(open_engine(path, device="cpu", dtype="float32")) | described(name, tiny.ALL[name]())
            rows.append(row)
    result = {
        "environment": record.environment(0),
        "tokens": TOKENS,
        "editable_tokens": EDITABLE,
        "models": rows,
        "refused": list(refusals()),
    }
    record.save("models", result)
    sys.exit(any(row.get("failed") for row in rows))


if __name__ == "__main__":
    main()
