"""`kv-memory eval leakage`: the model and its erasers in, the result and its file out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from kv_memory.calibration.record import replacing
from kv_memory.erasers import is_files
from kv_memory.errors import KVMemoryError
from kv_memory.evaluation.leakage.injections import FILES
from kv_memory.evaluation.leakage.measure import Measurement, Progress
from kv_memory.evaluation.leakage.plan import Plan
from kv_memory.evaluation.leakage.record import Result
from kv_memory.evaluation.leakage.treatments import available
from kv_memory.evaluation.leakage.work import here, open_memory, processes


def run(
    model: str | None,
    erasers: Sequence[str],
    plan: Plan,
    *,
    workers: int = 1,
    out: Path | None,
    progress: Progress,
) -> Result:
    """Measure, and write the file, where one is wanted, once all is measured.

    `erasers`: names, and at most one trained eraser's directory or hub id; by default all that the model can run.
    `workers`: processes that share the cases, each with a model of its own.
    Raises KVMemoryError for what is wrong with any of it, before anything is measured.
    """
    trained = [given for given in erasers if is_files(given)]
    names = [given for given in erasers if not is_files(given)]
    if len(trained) > 1:
        raise KVMemoryError("Give --eraser at most one trained eraser.")
    missing = [name for name in FILES.values() if plan.data is not None and not (plan.data / name).is_file()]
    if missing:
        raise KVMemoryError(f"{plan.data} has no {' and no '.join(missing)}.")
    eraser = trained[0] if trained else None
    memory = open_memory(model, eraser)
    hows = available(memory, names)
    spread = nullcontext(here(memory)) if workers == 1 else processes(workers, model, eraser)
    with spread as work, replacing(out) if out else nullcontext() as draft:
        result = Measurement(memory.format, memory.engine.name, work, hows, plan, progress).run()
        if draft is not None:
            draft.write_text(result.model_dump_json(indent=1) + "\n")
    return result
