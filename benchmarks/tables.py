"""Write the tables of docs/results.md, and the short ones of the README, from the result files.

python -m benchmarks.tables
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.checkpoint_tables import checkpoints
from benchmarks.fidelity_tables import central, fidelity, precision
from benchmarks.models_tables import models
from benchmarks.real_tables import real_example, real_models
from benchmarks.record import RESULTS, source, table
from benchmarks.trust_tables import leakage, load, moves, provenance, templates
from kv_memory.evaluation.baselines import NEVER_SAW, NO_ERASE

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGE, TEMPLATES, MODELS, HYBRIDS = (
    ROOT / "docs" / f"{name}.md" for name in ("results", "templates", "models", "hybrids")
)
SHAPES = {"pocket": "the pocket model", "qwen3-8b": "random weights of Qwen3-8B's shape"}
SIMPLE = ("drop", "shift", "repair", "selective")
LLAMA_CPP = ("recompute", "drop", "shift", "repair", "selective", "influence", "shift+influence", "steer")
LEAKAGE = ("leakage_steer", "leakage_steer_repair", "leakage", "leakage_others")
"""Results of leakage; the first that has an eraser gives its row."""
LLAMA_CPP_MODELS = {"pocket": "pocket, F16", "qwen2-0.5b": "0.5 B shape, Q8_0"}
START, END = "<!-- figures: benchmarks/tables.py -->\n", "<!-- end of figures -->"
POCKET_LENGTH, POCKET_ERASER = "4096", "shift+influence"
"""The context and the eraser of the README's line about the pocket model."""


def main() -> None:
    for page, text in pages().items():
        page.write_text(filled(page.read_text(), text))


def pages() -> dict[Path, list[str]]:
    """Return what is between the marks of each page, in their order."""
    line = pocket(_load("eraser"), _load("latency_pocket_cpu"))
    readme = [real_example(_load("real_models")), f"{central(_load('fidelity'))} {line}"]
    return {
        README: readme,
        PAGE: [figures()],
        TEMPLATES: [templates(_load("templates"))],
        MODELS: [models(_load("models"))],
        HYBRIDS: [checkpoints(_load("checkpoints"))],
    }


def filled(page: str, texts: Sequence[str]) -> str:
    """Return a page with the texts between its marks."""
    first, *others = page.split(START)
    parts = [
        START + "\n" + text + "\n" + END + rest.partition(END)[2] for text, rest in zip(texts, others, strict=True)
    ]
    return first + "".join(parts)


def figures() -> str:
    """Return all tables."""
    bits = _load("precision") if (RESULTS / "precision.json").is_file() else None
    parts = [fidelity(_load("fidelity")), precision(bits), real_models(_load("real_models"))]
    parts += [answers(_load("influence")), steering(_load("eraser"))]
    parts += [transcripts(_load("transcripts")), localisation(_load("localisation"))]
    latency = [_load(path.stem) for path in sorted(RESULTS.glob("latency*.json"))]
    parts += [latency_table(result) for result in latency]
    runs = {name: _load(name) for name in LEAKAGE}
    parts += [llama_cpp_table(_load("llama_cpp")), leakage(runs, _generated(runs.values()))]
    parts += [provenance(_load("provenance")), load(_load("load")), moves(_load("moves"))]
    return "\n".join(parts)


def pocket(trained: dict[str, Any], latency: dict[str, Any]) -> str:
    """Return the line about the pocket model: what is left where later text refers back to the span, and the time."""
    found = trained["lengths"][POCKET_LENGTH]["binding"][f"{POCKET_ERASER} 32"]
    times = latency["contexts"][POCKET_LENGTH]["erase_milliseconds_median"]
    return (
        f"The pocket model ({int(POCKET_LENGTH):,} tokens, two CPU cores): `{POCKET_ERASER} 32` leaves "
        f"{_value(found, 'residual'):.3f} where later text refers back to the span, gives never-saw's answer in "
        f"{found['agreement']['value']:.0%} and takes {times[POCKET_ERASER]:,.0f} ms, `recompute` "
        f"{times['recompute']:,.0f} ms.\n"
    )


def _load(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def _generated(runs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The result of benchmarks/isolation.py, or the one with the most such cases of the runs that have some."""
    if (RESULTS / "isolation.json").is_file():
        return _load("isolation")
    return max((run for run in runs if "isolation" in run), key=lambda run: int(run["isolation"]["cases"]))


def answers(result: dict[str, Any]) -> str:
    """Return the tables over all classes by eraser and length, and by class at the length with the most figures."""
    by_length = {int(tokens): found for tokens, found in result["lengths"].items()}
    overall = [found["all"] for found in by_length.values()]
    lines = [
        "## Answers",
        "",
        "Questions on unseen conversations, asked of the pocket model after erasing: exact match with "
        "what is right for a reader who never saw the span, in points below never-saw, and in brackets the influence "
        f"left ({_sources(result['lengths'])}; `benchmarks/results/influence.json`).",
        "",
    ]
    rows = {"questions": [f"{found['probes']}" for found in overall]}
    for name in _shown(result["ks"]):
        rows[name] = [
            f"{found[name]['points_below_never_saw']:.1f} ({_value(found[name], 'residual_influence'):.3f})"
            for found in overall
        ]
    lines += table((f"{tokens:,} tokens" for tokens in by_length), rows)
    tokens = max(by_length, key=lambda length: by_length[length]["all"]["probes"])
    return "\n".join([*lines, "", *_classes(result, tokens, by_length[tokens]), ""])


def _classes(result: dict[str, Any], tokens: int, by_class: dict[str, Any]) -> list[str]:
    """Return exact match by class and eraser at one length."""
    names = [NO_ERASE, *SIMPLE, f"influence {result['k']}", f"shift+influence {result['k']}", NEVER_SAW]
    rows = {
        kind: [f"{found['probes']}", *(f"{_value(found[name], 'exact_match'):.3f}" for name in names)]
        for kind, found in by_class.items()
        if kind not in ("all", "environment")
    }
    return [
        f"By class, at {tokens:,} tokens, exact match:",
        "",
        *table(("questions", *names), rows, "class"),
        "",
        "*restore*: the span superseded an older value. *unknown*: the value stood only in the span. *binding*: later "
        "text refers back to it. *injection*: the span orders one answer to everything. *preference*: it says how to "
        "answer. *two-hop*: it leads from one record to another. *call*: a request for a tool. *keep*: a fact that the "
        "span does not touch. The number after an eraser is how many tokens it recomputes.",
    ]


def _shown(ks: Sequence[int]) -> Iterator[str]:
    """Return the rows: the simple erasers, and those that choose tokens."""
    yield from (NO_ERASE, *SIMPLE)
    for name in ("influence", "shift+influence"):
        yield from (f"{name} {k}" for k in ks)


def steering(result: dict[str, Any]) -> str:
    """Return the quality of the pocket model's trained eraser by class: agreement with never-saw, and influence
    left."""
    lengths = result["lengths"]
    least = min(row["questions"] for by_class in lengths.values() for row in by_class.values())
    classes = next(iter(lengths.values()))
    names = [name for name in next(iter(classes.values())) if name not in ("questions", NEVER_SAW, NO_ERASE)]
    shown = ", ".join(f"{int(length):,}" for length in lengths)

    def rows(kinds: Iterable[str], figure: Callable[[dict[str, Any], str], float], digits: int) -> list[str]:
        def cells(kind: str) -> Iterator[str]:
            return (" ".join(f"{figure(row[kind], e):.{digits}f}" for row in lengths.values()) for e in names)

        return table(names, {kind: cells(kind) for kind in kinds}, "class")

    touched = [kind for kind in classes if kind not in ("keep", "call")]
    return "\n".join(
        [
            "## The pocket's trained eraser",
            "",
            f"Agreement with never-saw at {shown} tokens; at least {least:,} "
            f"questions of each class and length on unseen conversations ({source(result)}; "
            "`benchmarks/results/eraser.json`).",
            "",
            *rows(classes, lambda row, name: row[name]["agreement"]["value"], 3),
            "",
            "Exact match with what is right, as a share of never-saw's:",
            "",
            *rows(["binding"], lambda row, name: row[name]["exact"] / row[NEVER_SAW]["exact"], 2),
            "",
            "Influence left, where the span had some:",
            "",
            *rows(touched, lambda row, name: row[name]["residual"]["value"], 3),
            "",
        ]
    )


def transcripts(result: dict[str, Any]) -> str:
    """Return residual influence of a span in real transcripts, by eraser."""
    sources = result["sources"]
    columns = [(source, what) for source, found in sources.items() for what in found["residual_influence"]]
    counts = ", ".join(f"{found['transcripts']} of {source}" for source, found in sources.items())
    lines = [
        "## Real transcripts",
        "",
        "What is left of the influence of a tool result on the assistant's next turn, and on "
        "reading the result and its neighbourhood again (of AgentDojo the result with the injected text); of bAbI, of "
        f"a sentence that the next one refers back to, on a question and its answer. Pocket model, {counts}, up "
        f"to {result['longest']:,} tokens ({_sources(sources)}; `benchmarks/results/transcripts.json`).",
        "",
    ]
    rows = {
        name: [f"{_value(sources[source]['residual_influence'][what], name):.3f}" for source, what in columns]
        for name in next(iter(sources.values()))["residual_influence"]["next turn"]
    }
    return "\n".join([*lines, *table((f"{source}, {what}" for source, what in columns), rows), ""])


def localisation(result: dict[str, Any]) -> str:
    """Return how localised the change that a span made is, in real transcripts."""
    sources = result["sources"]
    counts = " and ".join(f"{found['transcripts']} of {source}" for source, found in sources.items())
    lines = [
        f"The share of all change of later cells that the tokens with the largest change carry; {counts} "
        f"({_sources(sources)}; `benchmarks/results/localisation.json`):",
        "",
    ]
    rows = {
        f"{share} of tokens": [f"{_value(found['share_of_change'][share], 'all'):.2f}" for found in sources.values()]
        for share in next(iter(sources.values()))["share_of_change"]
    }
    return "\n".join([*lines, *table(sources, rows), ""])


def _value(found: dict[str, Any], key: str) -> float:
    value: float = found[key]["value"]
    return value


def latency_table(result: dict[str, Any]) -> str:
    """Return erase time by context length."""
    contexts = result["contexts"]
    names = list(next(iter(contexts.values()))["erase_milliseconds_median"])
    lines = [
        f"## Time: {SHAPES[result['shape']]}",
        "",
        f"Median milliseconds to erase a span of {result['span']} tokens at 10 % of the context; "
        f"{SHAPES[result['shape']]}, {result['dtype']} ({source(result)}).",
        "",
    ]
    rows = {
        f"{int(context):,}": [
            f"{row['erase_milliseconds_median'][name]:,.1f} ({row['recompute_over_eraser'][name]:,.1f}x)"
            if name != "recompute"
            else f"{row['erase_milliseconds_median'][name]:,.1f}"
            for name in names
        ]
        for context, row in contexts.items()
    }
    shown = table(names, rows, "context")
    return "\n".join([*lines, *shown, "", "In brackets: how many times faster than `recompute`.", ""])


def llama_cpp_table(result: dict[str, Any]) -> str:
    """Return erase time on llama.cpp beside its own ways, by model and context length."""
    cells = [(model, int(c), cell) for model, row in result["models"].items() for c, cell in row.items()]
    commits = ", ".join(sorted({cell["commit"][:9] for _, _, cell in cells}))
    lines = [
        "## llama.cpp",
        "",
        f"Median milliseconds to erase a span of {result['span']} tokens at 10 % of the context, on a "
        f"CPU: by llama.cpp's own ways, and by this engine ({result['hardware']}, llama-cpp-python "
        f"{result['versions']['llama-cpp-python']}, commit {commits}, seed {result['seed']}; "
        "`benchmarks/results/llama_cpp.json`).",
        "",
        f"| model | context | re-prefill | reuse | {' | '.join(LLAMA_CPP)} | a turn: llama.cpp, here | memory |",
        "| --- |" + " --- |" * (len(LLAMA_CPP) + 5),
    ]
    lines += [_llama_cpp_row(model, context, cell) for model, context, cell in sorted(cells, key=lambda c: c[:2])]
    return "\n".join(
        [
            *lines,
            "",
            "In brackets: how many times faster than the re-prefill that the prefix cache does. Reuse is its cache "
            "reuse by shifting, which leaves in later cells what `shift` leaves. A turn: 64 tokens read, 32 written. "
            "Memory: the most that the process took, with room for three copies of the cells in it.",
            "",
        ]
    )


def _llama_cpp_row(model: str, context: int, cell: dict[str, Any]) -> str:
    times = cell.get("erase_milliseconds_median", {})

    def shown(name: str) -> str:
        if name not in times:
            return "-"
        faster = cell["reprefill_over"].get(name)
        return f"{times[name]:,.0f}" + (f" ({faster:,.1f}x)" if faster and name in LLAMA_CPP else "")

    turn, memory = cell.get("turn_milliseconds"), cell.get("resident_megabytes_at_most")
    turns = f"{median(turn['llama.cpp']):,.0f}, {median(turn['engine']):,.0f}" if turn else "-"
    columns = [*map(shown, ("reprefill", "reuse", *LLAMA_CPP)), turns, f"{memory:,.0f} MB" if memory else "-"]
    return f"| {LLAMA_CPP_MODELS[model]} | {context:,} | {' | '.join(columns)} |"


def _sources(parts: dict[str, Any]) -> str:
    """Return where the parts of a result come from."""
    return "; ".join(dict.fromkeys(source(part["environment"]) for part in parts.values()))


if __name__ == "__main__":
    main()
