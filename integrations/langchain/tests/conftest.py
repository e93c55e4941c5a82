from __future__ import annotations

import os

# before torch is imported: threads that wait by spinning slow each other down when test workers share the cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Generator

import pytest
import torch
from hypothesis import HealthCheck, settings

from kv_memory import Memory
from langchain_kv_memory import ErasableChatModel

from .standard import SKIPPED, UNSKILLED

torch.set_num_threads(1)

# no test is about how quick a busy machine is
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session")
def pocket() -> Memory:
    """The pocket model, loaded once for all tests of a worker."""
    return Memory(heal="never")


@pytest.fixture
def model(pocket: Memory) -> ErasableChatModel:
    """A chat model over it, with no sessions."""
    for name in pocket.sessions():
        pocket.delete_session(name)
    return ErasableChatModel(memory=pocket, max_tokens=24)


def _standard(item: pytest.Item) -> str | None:
    """The name of a test of langchain-tests' suites."""
    if isinstance(item, pytest.Function) and item.cls is not None and item.cls.__name__ == "TestStandard":
        return item.originalname
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        reason = UNSKILLED.get(_standard(item) or "")
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test of the suites that is skipped for another reason than is known of is a failure."""
    report = yield
    name = _standard(item)
    if report.skipped and name and not hasattr(report, "wasxfail"):
        if name in SKIPPED:
            report.longrepr = (str(item.path), 0, f"Skipped: {SKIPPED[name]}")
        else:
            report.outcome, report.longrepr = "failed", f"skipped, and standard.py has no reason: {report.longrepr}"
    return report
