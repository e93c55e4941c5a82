"""The conformance suite: what every engine promises, as tests to inherit.

Subclass `EngineConformance` in a test file and say how an engine is made of a model directory:

```python
from pathlib import Path

from kv_memory.testing.conformance import EngineConformance


class TestMyEngine(EngineConformance):
    models = ("llama", "qwen3")  # of kv_memory.testing.models.CONFIGS; by default all of them

    def open(self, path: Path) -> MyEngine:
        return MyEngine(path, dtype="float32")
```

The directories hold tiny random models, saved with `save_pretrained`; the oracle is transformers' own forward pass of
the same weights. What the engine lacks (`kv_memory.engines.parts.lacks`) is skipped, with the reason.
"""

from kv_memory.testing.conformance.case import Case
from kv_memory.testing.conformance.choice import Choice
from kv_memory.testing.conformance.edits import Edits
from kv_memory.testing.conformance.erasing import Erasing
from kv_memory.testing.conformance.generation import Generation
from kv_memory.testing.conformance.histories import Histories
from kv_memory.testing.conformance.ledger import LedgerHistories
from kv_memory.testing.conformance.reencoding import Reencoding
from kv_memory.testing.conformance.sequences import Sequences
from kv_memory.testing.conformance.steering import SteeringStates

__all__ = ["Case", "EngineConformance"]


class EngineConformance(
    Sequences, Generation, Edits, Reencoding, Choice, Erasing, SteeringStates, Histories, LedgerHistories
):
    """All tests of an engine. Subclasses define `open`, and may narrow `models`."""
