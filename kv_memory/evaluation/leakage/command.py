"""`kv-memory eval leakage`: the model and its erasers in, the result and its file out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kv_memory.calibration.record import replacing
from kv_memory.erasers import is_files
from kv_memory.errors import KVMemoryError
from kv_memory.evaluation.leakage.injections import FILES
from kv_memory.evaluation.leakage.measure import Measurement, Progress
from kv_memory.evaluation.leakage.plan import Plan
from kv_memory.evaluation.leakage.record import Result
from kv_memory.evaluation.leakage.treatments import available
from kv_memory.memory import Memory


def run(model: str | None, erasers: Sequence[str], plan: Plan, *, out: Path | None, progress: Progress) -> Result:
    """Measure, and write the file, where one is wanted, once all is measured.

    `erasers`: names, and at most one trained eraser's directory or hub id; by default all that the model can run.
    Raises KVMemoryError for what is wrong with any of it, before anything is measured.
    """
    trained = [given for given in erasers if is_files(given)]
    names = [given for given in erasers if not is_files(given)]
    if len(trained) > 1:
        raise KVMemoryError("Give --eraser at most one trained eraser.")
    missing = [name for name in FILES.values() if plan.data is not None and not (plan.data / name).is_file()]
    if missing:
        raise KVMemoryError(f"{plan.data} has no {' and no '.join(missing)}.")
    memory = Memory(model, eraser=trained[0] if trained else None, heal="never")
    memory.max_tokens = 16 * memory.engine.capabilities.max_positions  # many copies of one conversation
    measurement = Measurement(memory, available(memory, names), plan, progress)
    if out is None:
        return measurement.run()
    with replacing(out) as draft:
        result = measurement.run()
        draft.write_text(result.model_dump_json(indent=1) + "\n")
    return result
