"""What every eraser leaves of a span's influence on real transcripts: residual influence by source.

    python -m benchmarks.transcripts --eraser DIR --data ../shared/data --transcripts 40 --workers 2

tau-bench: one tool result is the span. AgentDojo: the tool result with the injected text. bAbI 11 and 13: the sentence
that a pronoun in the next one refers to. Scored are the transcript's own next assistant turn and reading the span and
its neighbourhood again (localisation.py); of bAbI the question and its answer. Called again with the same settings, a
source that is there is left out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import localisation
from kv_memory.evaluation.baselines import NO_ERASE

SOURCES = {
    **localisation.SOURCES,
    "bAbI 11": "babi/qa11_basic-coreference_train.txt.gz",
    "bAbI 13": "babi/qa13_compound-coreference_train.txt.gz",
}
K = {"influence": (32,), "shift+influence": (8, 32), "steer+influence": (8, 32)}
"""Number of tokens that are recomputed."""
BEFORE = 4
"""Number of stories before the one with the question: a span of a sentence is then erased from some hundred tokens."""


def start(model: str | None, longest: int, eraser: str | None) -> None:
    """Make this worker's engine."""
    from kv_memory.trained.files import open_eraser

    localisation.start(model, longest)
    if eraser is not None:
        open_eraser(eraser).load(localisation._state["engine"])


def measure(job: tuple[str, int, Any]) -> dict[str, dict[str, float]] | None:
    """Measure the KL of one transcript, by what is scored and eraser; None where nothing of it is long enough."""
    from kv_memory.evaluation.trial import trial

    source, seed, record = job
    found = babi(record) if source.startswith("bAbI") else localisation.cases(record["messages"], seed, record["texts"])
    engine, row = localisation._state["engine"], {}
    for what, case in found.items():
        with trial(engine, case) as this:
            row[what] = {name: this.run(eraser).kl for name, eraser in erasers(engine).items()}
    return row or None


def erasers(engine: Any) -> dict[str, Any]:
    """Return all erasers that the engine can run, except the full recompute."""
    from kv_memory.erasers import ERASERS

    found: dict[str, Any] = {NO_ERASE: None}
    kind: Any
    for name, kind in ERASERS.items():
        if name != "recompute" and not kind().lacking(engine):
            found |= {f"{name} {k}": kind(k) for k in K[name]} if name in K else {name: kind()}
    return found


def babi(stories: list[list[tuple[str, str, list[int]]]]) -> dict[str, Any]:
    """Return the last story's first question, with the first sentence that it rests on as the span."""
    from kv_memory.evaluation.cases import TEXT, Case, Transcript

    form = localisation._state["form"]
    messages: list[dict[str, Any]] = []
    for place, story in enumerate(stories):
        for number, (said, answer, support) in enumerate(story, 1):
            if answer and story is stories[-1]:
                target = f"{place}.{support[0]}"
                question, reply = said, answer
                break
            if not answer:
                messages.append({"role": "user", "content": said, "id": f"{place}.{number}"})
                messages.append({"role": "assistant", "content": "ok"})
    read = Transcript(form, messages)
    asked = [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    scored = Transcript(form, asked).ids[len(read.ids) :]
    return {"question": Case(TEXT, read.ids, read.cells([target]), (), scored)}


def records(source: str, folder: Path, rng: Random) -> Iterator[Any]:
    """Return the transcripts of a source, in any order."""
    with gzip.open(folder / SOURCES[source], "rt", encoding="utf-8") as lines:
        text = list(lines)
    if source.startswith("bAbI"):
        stories = list(_stories(text))
        for _ in stories:
            yield rng.sample(stories, BEFORE + 1)
        return
    found = [json.loads(line) for line in text]
    rng.shuffle(found)
    for record in found:
        texts = [t for t in record.get("injections", {}).values() if t.strip()]
        if texts or source != "AgentDojo":
            yield {"messages": record["messages"], "texts": texts}


def _stories(lines: list[str]) -> Iterator[list[tuple[str, str, list[int]]]]:
    """Return each story's sentences and questions: text, answer and the numbers of the sentences it rests on."""
    story: list[tuple[str, str, list[int]]] = []
    for line in lines:
        number, _, rest = line.strip().partition(" ")
        if number == "1" and story:
            yield story
            story = []
        said, answer, support = (*re.split(r"\s*\t", rest), "", "")[:3]
        story.append((said, answer, [int(i) for i in support.split()]))
    yield story


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eraser", help="a trained one, measured too")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the transcripts")
    parser.add_argument("--transcripts", type=int, default=40, help="of each source")
    parser.add_argument("--longest", type=int, default=4096, help="tokens of a context, at most")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="default: the pocket model")
    parser.add_argument("--name", default="transcripts")
    args = parser.parse_args()

    from benchmarks.record import begun, environment, save

    settings = {"model": args.model or "pocket", "longest": args.longest, "seed": args.seed}
    result, wanted = begun(args.name, settings, SOURCES)
    for source in wanted:
        started, rows = time.time(), []
        jobs = (
            (source, args.seed + i, record) for i, record in enumerate(records(source, args.data, Random(args.seed)))
        )
        with get_context("spawn").Pool(args.workers, start, (args.model, args.longest, args.eraser)) as pool:
            for row in pool.imap(measure, jobs):
                rows += [row] if row else []
                if len(rows) == args.transcripts:
                    break
        if not rows:
            raise SystemExit(f"No transcript of {source} has a span and what follows it in {args.longest:,} tokens.")
        left = localisation.residual_influence(rows)
        result["sources"][source] = {
            "environment": environment(args.seed),
            "transcripts": len(rows),
            "residual_influence": left,
        }
        print(f"{source}: {len(rows)} transcripts in {time.time() - started:.0f} s", flush=True)
        for what, found in left.items():
            print(f"  {what}:", *(f"{name} {value['value']:.3f}" for name, value in found.items()), flush=True)
        save(args.name, result)


if __name__ == "__main__":
    main()
