"""The tables of which models work, for docs/models.md."""

from __future__ import annotations

from typing import Any

from benchmarks.record import source, table

FAMILIES = {
    "llama": "Llama 2 and 3, SmolLM, Granite 3, Yi",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen3": "Qwen3",
    "mistral": "Mistral Nemo, Mistral Small, Ministral, Devstral",
    "phi3-partial": "Phi-4 mini",
    "gemma-mqa": "Gemma 1",
    "mistral-window": "Mistral 7B v0.1",
    "phi3-window": "Phi-3 mini 4K",
    "gemma3": "Gemma 3",
    "gemma4": "Gemma 4",
    "gpt-oss": "gpt-oss",
    "olmo3": "OLMo 3",
    "cohere2": "Command A, Command R7B",
    "llama4": "Llama 4",
    "glm4-moe-lite": "GLM-4.7-Flash",
    "deepseek-v3": "DeepSeek V3, Kimi K2",
    "qwen3_5": "Qwen3.5 and later",
    "qwen3_next": "Qwen3-Next",
    "olmo_hybrid": "OLMo Hybrid",
    "kimi_linear": "Kimi Linear",
    "lfm2": "LFM2",
    "granitemoehybrid": "Granite 4",
    "bamba": "Bamba",
    "falcon_h1": "Falcon-H1",
    "nemotron_h": "Nemotron-H, Nemotron 3",
    "jamba": "Jamba",
}
"""Models that people run, by the tiny model that stands for them; those without a name are variants of another."""
ENGINES = {
    "TransformersEngine": "transformers",
    "RecurrentEngine": "transformers",
    "LlamaCppEngine": "llama.cpp",
    "LlamaCppRecurrentEngine": "llama.cpp",
}


def models(result: dict[str, Any]) -> str:
    """Return the tables of what works and of what is refused."""
    by_name: dict[str, dict[str, dict[str, Any]]] = {}
    for row in result["models"]:
        by_name.setdefault(row["model"], {})[ENGINES.get(row["engine"], row["engine"])] = row
    head = ["layers", "erasers", "32K tokens", "given back", "tests on transformers", "on llama.cpp"]
    rows = {FAMILIES[name]: _row(engines) for name, engines in by_name.items() if name in FAMILIES}
    refused = {row["kind"]: [row["said"]] for row in result["refused"]}
    tokens, editable = result["tokens"], result["editable_tokens"]
    lines = [
        f"Each row is a tiny random model of that kind, on which the conformance suite ran (`benchmarks/models.py`, "
        f"{source(result['environment'])}; `benchmarks/results/models.json`). Memory is that of K and V of {tokens:,} "
        "tokens in 16 bits at the shape that transformers has as a default of its kind, computed as the engine keeps "
        f"them; given back: with `editable_tokens={editable:,}`.",
        "",
        *table(head, dict(sorted(rows.items())), "models"),
        "",
        "What is refused, and what it is told:",
        "",
        *table(["error"], refused, "kind"),
    ]
    return "\n".join(lines)


def _row(engines: dict[str, dict[str, Any]]) -> list[str]:
    row = engines.get("transformers") or next(iter(engines.values()))
    given = row.get("gigabytes_given_back")
    return [
        _layers(row),
        _erasers(row),
        f"{row['gigabytes']:.2f} GB" if "gigabytes" in row else "",
        "" if given is None else f"{given:.2f} GB",
        _tests(engines.get("transformers")),
        _tests(engines.get("llama.cpp")),
    ]


def _layers(row: dict[str, Any]) -> str:
    if "recurrent" in row:
        return f"[recurrent](hybrids.md) ({', '.join(name.replace('_', ' ') for name in row['recurrent'])})"
    if row["latent"]:
        return "latent attention"
    if row["see_all"] == row["layers"]:
        return "full attention"
    return f"{row['others']}; {row['see_all']} of {row['layers']} see all"


def _erasers(row: dict[str, Any]) -> str:
    able = row.get("erasers", [])
    if "recurrent" in row:
        return f"`{'`, `'.join(able)}`"
    if row.get("lacking"):
        return f"`{'`, `'.join(able)}`: {'; '.join(row['lacking'])}"
    return "all; without a calibration `recompute` alone is chosen" if row.get("unproven") else "all"


def _tests(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    failed = f", {row['failed']} failed" if row.get("failed") else ""
    return f"{row['passed']} passed{failed}"
