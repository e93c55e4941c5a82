"""Whatever happened to a session, its caches hold what they should: random histories, and what they have found."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.histories.machine import Histories

NUMBER = int(os.environ.get("KV_MEMORY_HISTORIES", "300"))


def test_no_history_shows_what_is_retracted_or_hides_what_is_not() -> None:
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=NUMBER,
            stateful_step_count=16,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
