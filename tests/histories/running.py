"""Running the state machine."""

from __future__ import annotations

import io
import time
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from kv_memory.sessions import dependence
from tests.histories.machine import Histories

STEPS = 16
BLOCK = 100
"""Histories under one seed."""


@dataclass(frozen=True)
class Block:
    """What came of one block of histories."""

    seed: int
    histories: int
    seconds: float
    failure: str = ""
    """The smallest history that failed, and how."""


def read(number: int, histories: int, *, shrink: bool = False) -> Block:
    """Read the histories under a seed; a worker of the nightly command does. `shrink`: make one that fails smaller."""
    torch.set_num_threads(1)
    began, said, failure = time.perf_counter(), io.StringIO(), ""
    try:
        with redirect_stdout(said):
            run(histories, number, shrink=shrink)
    except Exception as error:
        failure = said.getvalue() + "".join(traceback.format_exception(error))
    return Block(number, histories, time.perf_counter() - began, failure)


def run(histories: int, number: int | None = None, *, shrink: bool = True) -> None:
    """Read this many histories: those under a seed, by default always the same ones. Raises what the first raises."""
    machine: Any = type("Histories", (Histories,), {})
    if number is not None:
        machine = seed(number)(machine)
    with pytest.MonkeyPatch.context() as patch:
        # The random weights of the tiny model matter little: so about every second turn counts as dependent.
        patch.setattr(dependence, "DEPENDS", 0.0)
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=histories,
                stateful_step_count=STEPS,
                deadline=None,
                derandomize=number is None,
                database=None,
                print_blob=False,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            ),
        )
