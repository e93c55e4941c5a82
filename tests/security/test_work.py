"""The parts of a measurement, spread over processes."""

from __future__ import annotations

import os
from pathlib import Path

from kv_memory.evaluation.leakage.work import processes
from kv_memory.sessions.memory import Memory
from tests.tiny import save_tiny


def whose(memory: Memory, job: int) -> tuple[str, int, int]:
    return memory.engine.name, job, os.getpid()


def test_processes_share_the_jobs_and_answer_in_their_order(tmp_path: Path) -> None:
    model = str(save_tiny(tmp_path))
    with processes(2, model, None) as work:
        found = list(work(whose, range(8)))
    assert [(name, job) for name, job, _ in found] == [(model, job) for job in range(8)]
    assert os.getpid() not in {process for *_, process in found}
