"""The tables of what retraction is trusted with: leakage, what depended on a span, many sessions."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from benchmarks.record import source, table
from kv_memory.erasers import ERASERS
from kv_memory.evaluation.baselines import NEVER_SAW, NO_ERASE
from kv_memory.evaluation.leakage.treatments import HEALED

ORDER = (NO_ERASE, *ERASERS, HEALED, NEVER_SAW)
HOW = {"found": "echoes found", "spared": "other turns spared"}


def leakage(runs: Mapping[str, dict[str, Any]], generated: dict[str, Any]) -> str:
    """Return what attackers get of erased text, by eraser: from the first of the runs, by result file, that has it.

    `generated`: the result with the cases of isolation and of spoofing.
    """
    rows = {name: run for run in reversed(list(runs.values())) for name in run["canaries"]}
    told = []
    for file, run in runs.items():
        names = [name for name in run["canaries"] if rows[name] is run and name not in (NO_ERASE, NEVER_SAW)]
        told.append(f"{', '.join(names)}: {source(run['environment'])}; `benchmarks/results/{file}.json`")
    isolation, spoofing = generated["isolation"], generated["spoofing"]
    collections = next(iter(runs.values()))["injections"]
    lines = [
        "## Leakage",
        "",
        "Canaries are secret values in a message that is erased: how many there were; how often an attack "
        "by questions gets the value; whether its exposure is within a bit of never-saw's; how often a test by the "
        "value's likelihood tells that it had been there, at 1 % false alarms, without and with never-saw's likelihood "
        "beside it. Then: how often an order that a tool result gave is obeyed, what is left of the injections of two "
        "public collections, and how well a cascade tells turns that say the value again from others "
        f"({'. '.join(told)}).",
        "",
    ]
    columns = ("canaries", "attack", "within a bit", "told, alone", "told, beside never-saw", "obeyed")
    shown: dict[str, list[str]] = {}
    for name, found in sorted(rows.items(), key=lambda item: ORDER.index(item[0])):
        row = found["canaries"][name]
        cells = [str(row["canaries"])]
        cells += [f"{row[figure]['value']:.3f}" for figure in ("attack", "within_a_bit", "tpr", "tpr_relative")]
        cells.append(f"{found['orders'][name]['obeyed']['value']:.3f}")
        left = (of_source["residual"].get(name) for of_source in found["injections"].values())
        cells += [f"{value['value']:.3f}" if value else "-" for value in left]
        for figure in HOW:
            echoes = [kind["cascade"][name] for kind in found["echoes"].values() if name in kind["cascade"]]
            cells.append(f"{mean(echo[figure]['value'] for echo in echoes):.2f}" if echoes else "-")
        shown[name] = cells
    lines += [
        *table((*columns, *collections, *HOW.values()), shown),
        "",
        f"Isolation: {len(isolation['failures'])} failures in {isolation['cases']:,} cases of interleaved sessions; a "
        f"session's own changed secret showed in {isolation['controls_noticed']:,} of {isolation['controls']:,}. "
        f"Spoofing: {sum(len(found['failures']) for found in spoofing.values())} failures in "
        f"{sum(found['cases'] for found in spoofing.values()):,} contents with role markers of {', '.join(spoofing)}.",
        "",
    ]
    return "\n".join(lines)


def provenance(result: dict[str, Any]) -> str:
    """Return how well answers that depended on a span are told from others, and the quality of attribution."""
    ((tokens, found),) = result["tokens"].items()
    rows, attribution = found["dependence"], found["attribution"]
    first = rows["recompute"]
    answers = attribution["recompute"]["answers"]
    lines = [
        "## What depended on it",
        "",
        f"{first['dependent']} answers that rest on a retracted message and {first['others']} "
        f"that do not, in {result['worlds']} unseen conversations of {tokens} tokens: area under the curve, and the "
        f"share found at 1 % false alarms; and of {answers} answers attributed to messages, how often the same one "
        f"comes first as by recompute ({source(result)}; `benchmarks/results/provenance.json`).",
        "",
    ]
    cells = {}
    for name, row in rows.items():
        ranked = attribution[name]
        figures = (row["area"], row["found"], ranked["same first"]["value"], ranked["rank correlation"])
        cells[name] = [f"{figure:.3f}" for figure in figures]
    return "\n".join([*lines, *table(("area", "found", "same first", "rank correlation"), cells), ""])


def load(result: dict[str, Any]) -> str:
    """Return what many sessions at a time went through."""
    wrong = result["sessions that differ from their replay"]
    return (
        f"## Load\n\n{result['sessions']} sessions, {result['threads']} threads and {result['tasks']} tasks on one "
        f"memory for {result['seconds'] / 60:.0f} minutes: {result['steps']:,} calls, {result['answers']:,} answers, "
        f"{len(result['errors'])} errors; {len(wrong)} sessions whose cells differ from their replay "
        f"({source(result)}; `benchmarks/results/load.json`).\n"
    )


def moves(result: dict[str, Any]) -> str:
    """Return how far keys are from where one exact rotation brings them, after many moves."""
    rows = result["rows"]
    counts = list(rows[0]["errors"])
    lines = [
        "## Keys after many moves",
        "",
        f"Relative error of the keys of {result['cells']} cells, moved at random within {result['context']:,} "
        "positions, against one rotation in float64 from where they were first; where each move turns what the one "
        "before it rounded, and as the engines do it. One rounding to the same type, of random numbers: "
        f"{', '.join(f'{name} {error:.1e}' for name, error in result['one rounding'].items())} "
        f"({source(result)}; `benchmarks/results/moves.json`).",
        "",
    ]
    cells = {
        f"{row['engine']}, {row['dtype']}, {row['moves']}": [f"{row['errors'][count]:.1e}" for count in counts]
        for row in rows
    }
    return "\n".join([*lines, *table([f"after {int(count):,}" for count in counts], cells), ""])


def templates(result: dict[str, Any]) -> str:
    """Return how many shapes of conversation are right, mapped or refused, by template and by vocabulary."""
    kinds = ("right", "mapped", "refused", "tokens", "wrong")
    heads = ["right", "mapped", "refused", "tokens differ", "wrong"]

    def cells(row: Mapping[str, Any]) -> list[str]:
        return [str(row.get(kind, 0)) for kind in kinds]

    rows = {row["template"]: cells(row) for row in result["rows"]}
    total = {f"all {result['templates']}": cells(result["total"])}
    real = {row["vocabulary"]: cells(row) for row in result["vocabularies"]}
    lines = [
        f"{result['templates_right']} of {result['templates']} templates are right in all {len(result['shapes'])} "
        "shapes: "
        f"{', '.join(result['shapes'])} ({source(result)}; `benchmarks/results/templates.json`).",
        "",
    ]
    tables = [*table(heads, total | rows), "", "With real vocabularies, conversations read at once:", ""]
    return "\n".join([*lines, *tables, *table(heads, real), ""])
