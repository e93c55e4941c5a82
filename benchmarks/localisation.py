"""How localised influence is on real transcripts: which tokens a tool result changed, and what repairing them leaves.

    python -m benchmarks.localisation --data ../shared/data --transcripts 150 --workers 8

Of each transcript (tau-bench airline, AgentDojo) one tool result is the span. The change of every later cell is known
from a full recompute in place (kv_memory/evaluation/oracle.py); the share of it that the top 1, 5 and 15 % of tokens
carry is given by layer. Residual influence is measured on the transcript's own next assistant turn, and on reading the
span and its neighbourhood once more (kv_memory/evaluation/cases.py). Called again with the same settings, a source that
is there is left out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from kv_memory.engines.threads import wait_passively
from kv_memory.evaluation.baselines import NO_ERASE

SOURCES = {"tau-bench": "tau_bench_airline.jsonl.gz", "AgentDojo": "agentdojo_workspace_travel.jsonl.gz"}
SHARES = (0.01, 0.05, 0.15)
LAYER = 5
SHORTEST_SPAN, SHORTEST_SUFFIX, SCORED = 16, 200, 64
_state: dict[str, Any] = {}


def start(model: str | None, longest: int) -> None:
    """Make this worker's engine."""
    wait_passively()
    import torch

    from kv_memory.conversation.chat_format import ChatFormat
    from kv_memory.engines.transformers import TransformersEngine
    from kv_memory.pocket import model_path

    torch.set_num_threads(1)
    engine = TransformersEngine.load(model or model_path(), probe_layers=(LAYER,))
    _state.update(engine=engine, form=ChatFormat(engine.tokenizer), longest=longest)


def cases(messages: list[dict[str, Any]], seed: int, texts: Sequence[str] = ()) -> dict[str, Any]:
    """Return one tool result of a transcript as two cases, by what is scored; none where nothing of it is long enough.

    `texts`: of the results with one of these in them, if there are any.
    """
    from kv_memory.conversation.messages import parse_messages
    from kv_memory.evaluation.agentdojo import as_written
    from kv_memory.evaluation.cases import TEXT, Case, again, ledger_of

    parsed = parse_messages(messages)
    encoded = _state["form"].encode(parsed)
    ledger, turns = ledger_of(parsed, encoded), []
    for entry, pieces in zip(ledger.entries, encoded, strict=True):
        said = [i for piece in pieces if piece.kind != "scaffold" for i in piece.ids]
        if entry.message.role == "assistant" and said and entry.intervals[0][0] <= _state["longest"]:
            turns.append((entry.intervals[0][0], said[:SCORED]))
    if not turns:
        return {}
    end, tail = turns[-1]
    forms = [as_written(text) for text in texts]
    results = [
        (run.start, run.end)
        for entry in ledger.entries
        for run in entry.runs
        if entry.message.role == "tool" and run.piece.kind == "content"
        if not forms or any(form.search(entry.message.content) for form in forms)
    ]
    results = [(a, b) for a, b in results if b - a >= SHORTEST_SPAN and end - b >= SHORTEST_SUFFIX]
    if not results:
        return {}
    span = Random(seed).choice(results)
    ids = tuple(ledger.token_ids()[:end])
    tails = {"next turn": tuple(tail), "read again": again(ids, span)}
    return {name: Case(TEXT, ids, (span,), (), read) for name, read in tails.items()}


def measure(job: tuple[str, int, list[dict[str, Any]]]) -> dict[str, Any] | None:
    """Measure one transcript."""
    from kv_memory.evaluation.oracle import deviations, top_share
    from kv_memory.evaluation.trial import trial

    source, seed, messages = job
    found = cases(messages, seed)
    row: dict[str, Any] = {"source": source, "kl": {}}
    engine = _state["engine"]
    for what, case in found.items():
        with trial(engine, case) as this:
            if "layers" not in row:
                change = deviations(engine, this.read, case.spans)[1]
                row |= {"following": case.following, "erased": case.erased}
                row["layers"] = [
                    [top_share(layer, layer.argsort(descending=True), tokens(share, case.following)) for layer in rows]
                    for share in SHARES
                    for rows in [[*change, change.mean(0)]]
                ]
            row["kl"][what] = {name: this.run(eraser).kl for name, eraser in erasers(case.following).items()}
    return row if found else None


def tokens(share: float, following: int) -> int:
    """Return how many tokens that share is, at least one."""
    return max(1, round(share * following))


def erasers(following: int) -> dict[str, Any]:
    """Return the erasers to compare: shares chosen by score, by the oracle, and other erasers."""
    from benchmarks.variants import ByDeviation
    from kv_memory.erasers import ERASERS
    from kv_memory.erasers.influence import Influence
    from kv_memory.erasers.shift_influence import ShiftInfluence

    found: dict[str, Any] = {NO_ERASE: None}
    found |= {name: ERASERS[name]() for name in ("drop", "shift", "repair", "selective")}
    found |= {f"{kind.name} 32": kind(32, layers=[LAYER]) for kind in (Influence, ShiftInfluence)}
    for share in SHARES:
        k = tokens(share, following)
        found |= {f"{kind.name} {share:.0%}": kind(k, layers=[LAYER]) for kind in (Influence, ShiftInfluence)}
        found[f"largest change {share:.0%} (oracle)"] = ByDeviation(k)
    return found


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return shares of change by layer and residual influence by eraser, with 95 % intervals over transcripts."""
    from kv_memory.calibration.estimates import ratio

    ones = [1.0] * len(rows)
    layers = len(rows[0]["layers"][0])
    names = [*map(str, range(layers - 1)), "all"]
    return {
        "transcripts": len(rows),
        "following_mean": sum(row["following"] for row in rows) / len(rows),
        "erased_mean": sum(row["erased"] for row in rows) / len(rows),
        "share_of_change": {
            f"{share:.0%}": {
                name: ratio([row["layers"][i][layer] for row in rows], ones).model_dump()
                for layer, name in enumerate(names)
            }
            for i, share in enumerate(SHARES)
        },
        "residual_influence": residual_influence([row["kl"] for row in rows]),
        "kl_no_erase_mean": {
            what: sum(row["kl"][what][NO_ERASE] for row in rows) / len(rows) for what in rows[0]["kl"]
        },
    }


def residual_influence(rows: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Return residual influence by what is scored and by eraser, from the KL of each transcript."""
    from kv_memory.calibration.estimates import ratio

    return {
        what: {
            name: ratio([row[what][name] for row in rows], [row[what][NO_ERASE] for row in rows]).model_dump()
            for name in kl
            if name != NO_ERASE
        }
        for what, kl in rows[0].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the transcripts")
    parser.add_argument("--transcripts", type=int, default=150, help="of each source")
    parser.add_argument("--longest", type=int, default=8192, help="tokens of a context, at most")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="default: the pocket model")
    parser.add_argument("--name", default="localisation")
    args = parser.parse_args()

    from benchmarks.record import begun, environment, save

    settings = {"model": args.model or "pocket", "layer": LAYER, "longest": args.longest, "seed": args.seed}
    result, wanted = begun(args.name, settings, SOURCES)
    for source in wanted:
        started = time.time()
        rows = collect(source, args)
        result["sources"][source] = {"environment": environment(args.seed), **summarise(rows)}
        print(f"{source}: {len(rows)} transcripts in {time.time() - started:.0f} s", flush=True)
        for share, found in result["sources"][source]["share_of_change"].items():
            print(f"  top {share} of tokens:", *(f"{k} {v['value']:.2f}" for k, v in found.items()), flush=True)
        for what, left in result["sources"][source]["residual_influence"].items():
            print(f"  {what}:", *(f"{name} {value['value']:.3f}" for name, value in left.items()), flush=True)
        save(args.name, result)


def collect(source: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure this many transcripts of one source, in the order of the transcripts."""
    with gzip.open(args.data / SOURCES[source], "rt", encoding="utf-8") as lines:
        records = [json.loads(line)["messages"] for line in lines]
    Random(args.seed).shuffle(records)
    jobs = [(source, args.seed + i, messages) for i, messages in enumerate(records)]
    rows: list[dict[str, Any]] = []
    # the pool ends with the source: it has been given more transcripts than are wanted
    with get_context("spawn").Pool(args.workers, start, (args.model, args.longest)) as pool:
        for row in pool.imap(measure, jobs):
            if row is not None:
                rows.append(row)
            if len(rows) == args.transcripts:
                break
    if not rows:
        raise SystemExit(f"No transcript of {source} has a tool result with {SHORTEST_SUFFIX} tokens after it.")
    return rows


if __name__ == "__main__":
    main()
