"""What erasers leave in bfloat16 and in a quantised GGUF, beside float32, on the same cases.

    python -m benchmarks.precision --model DIR --gguf FILE --float32 qwen.jsonl --data FOLDER

Float32's rows are those of benchmarks/fidelity.py; of each suite the first cases are taken that are short enough for a
CPU. Every precision is compared with its own never-saw.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

from kv_memory.engines.threads import wait_passively

SUITES = ("documents", "memory", "transcripts", "distance")
NAMES = ("drop", "shift", "influence 25%", "shift+influence 10%", "shift+influence 25%")
LONGEST = 32768
"""Longest case of the float32 run, which decides which cases there are."""


def measured(engine: Any, data: Path, chosen: dict[str, set[str]], path: Path) -> list[Any]:
    """Return the rows of the chosen cases; those that the file has are not measured again."""
    from kv_memory.conversation.chat_format import ChatFormat
    from kv_memory.erasers import get_eraser
    from kv_memory.evaluation.bench.record import Record, this_run
    from kv_memory.evaluation.bench.run import Bench
    from kv_memory.evaluation.suites.registry import get_suite
    from kv_memory.evaluation.suites.source import Source

    record = Record(this_run(engine, model=engine.name, longest=LONGEST, seed=0), path)
    bench = Bench(engine, {name: get_eraser(name) for name in NAMES}, answers=False)
    source = Source(ChatFormat(engine.tokenizer), longest=LONGEST, data=data)
    cases = []
    for suite, names in chosen.items():
        wanted = (case for case in islice(get_suite(suite)(source), 120) if case.name in names)
        for case in islice(wanted, len(names)):
            for rows in bench.rows([case], record.known):
                record.add(rows)
            cases.append(case)
            print(engine.kv_dtype, suite, case.name, flush=True)
    return record.rows(cases, bench.treatments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf", help="the same model quantised; none is measured without")
    parser.add_argument("--float32", type=Path, required=True, help="rows of benchmarks/fidelity.py")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=4, help="of each suite")
    parser.add_argument("--tokens", type=int, default=1800, help="of the longest context")
    parser.add_argument("--folder", type=Path, default=Path("runs/precision"))
    parser.add_argument("--name", default="precision")
    args = parser.parse_args()
    wait_passively()

    from benchmarks.record import environment, save
    from kv_memory.engines.llama_cpp import LlamaCppEngine
    from kv_memory.engines.transformers import TransformersEngine
    from kv_memory.evaluation.baselines import NEVER_SAW, NO_ERASE, OTHER_CHUNKS, REREAD
    from kv_memory.evaluation.bench.rows import Row
    from kv_memory.evaluation.bench.summary import CHANGED, summarise

    exact = [Row.model_validate_json(line) for line in args.float32.read_text().splitlines()[1:]]
    chosen: dict[str, set[str]] = {suite: set() for suite in SUITES}
    for row in exact:
        names = chosen.get(row.suite)
        short = row.treatment == NO_ERASE and row.tokens <= args.tokens and row.kl >= CHANGED
        if names is not None and short and len(names) < args.cases:
            names.add(row.case)
    known = {*NAMES, NEVER_SAW, OTHER_CHUNKS, NO_ERASE, REREAD}
    kept = [row for row in exact if row.case in chosen.get(row.suite, ()) and row.treatment in known]
    rows = {"float32, transformers": kept}
    args.folder.mkdir(parents=True, exist_ok=True)
    engines: dict[str, Any] = {"bfloat16, transformers": lambda: TransformersEngine.load(args.model, dtype="bfloat16")}
    if args.gguf:
        engines["Q4_K_M, llama.cpp"] = lambda: LlamaCppEngine.load(args.gguf, context_length=4096)
    for name, load in engines.items():
        rows[name] = measured(load(), args.data, chosen, args.folder / f"{name.partition(',')[0]}.jsonl")
    result: dict[str, Any] = {"environment": environment(0), "cases": {s: sorted(n) for s, n in chosen.items()}}
    for name, found in rows.items():
        groups = [group for group in summarise(found, "shift+influence 25%").groups if group.by == ""]
        result[name] = {
            group.suite: {"changed": group.changed}
            | {
                eraser: figures.residual.model_dump()
                for eraser, figures in group.treatments.items()
                if figures.residual is not None and eraser in NAMES
            }
            for group in groups
        }
    save(args.name, result)


if __name__ == "__main__":
    main()
