"""The engine over every model with recurrent layers; `make nightly` runs this, the tests a few of them."""

from __future__ import annotations

from typing import ClassVar

from kv_memory.testing.models import HYBRIDS
from tests.conformance.test_recurrent import TestRecurrent


class TestEveryHybrid(TestRecurrent):
    models: ClassVar[tuple[str, ...]] = tuple(HYBRIDS)


del TestRecurrent  # imported to inherit from, not to run again
