from __future__ import annotations

import os

# before torch is imported: threads that wait by spinning slow each other down when test workers share the cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.data import FOLDER

torch.set_num_threads(1)  # the test workers have one core each

# no test is about how quick a busy machine is
settings.register_profile(
    "busy", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")


@pytest.fixture(scope="session")
def data() -> Callable[[str], Path]:
    """Find a file of the project's data; skip the test if it is missing, and say which."""

    def find(name: str) -> Path:
        if not (FOLDER / name).exists():
            pytest.skip(f"needs {name} in ../shared/data or $KV_MEMORY_DATA")
        return FOLDER / name

    return find


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Report a measured value at the end of the run."""
    return lambda line: record_property("measured", line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for rs in terminalreporter.stats.values() for r in rs if isinstance(r, pytest.TestReport)]
    lines = {value for report in reports for name, value in report.user_properties if name == "measured"}
    if lines:
        terminalreporter.section("measured")
        for line in sorted(str(line) for line in lines):
            terminalreporter.write_line(line)
