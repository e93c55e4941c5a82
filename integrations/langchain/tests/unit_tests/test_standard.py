"""langchain-tests' standard unit suite."""

from __future__ import annotations

import pytest
from langchain_tests.unit_tests import ChatModelUnitTests

from tests.standard import Ours, counted


class TestStandard(Ours, ChatModelUnitTests):
    pass


def test_eight_of_the_suite_pass(request: pytest.FixtureRequest) -> None:
    """A failure fails by itself and conftest.py takes no skip without a reason: so counting what was collected does."""
    assert counted(request, TestStandard) == 8
