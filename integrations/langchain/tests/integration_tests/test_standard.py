"""langchain-tests' standard integration suite, with the pocket model."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests

from kv_memory import Memory
from langchain_kv_memory import ErasableChatModel
from tests.standard import UNSKILLED, Ours, counted


class TestStandard(Ours, ChatModelIntegrationTests):
    memory: ClassVar[Memory]

    @pytest.fixture(autouse=True)
    def _share_the_weights(self, pocket: Memory) -> None:
        type(self).memory = pocket

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"memory": self.memory}

    @property
    def supported_usage_metadata_details(self) -> Any:
        details = ["cache_read_input", "cache_creation_input"]
        return {"invoke": details, "stream": details}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        return self._twice(stream)

    def invoke_with_cache_creation_input(self, *, stream: bool = False) -> AIMessage:
        return self._twice(stream)

    def _twice(self, stream: bool) -> AIMessage:
        model = ErasableChatModel(memory=self.memory, max_tokens=4)
        model.invoke("Is this in the cache?")
        if not stream:
            return model.invoke("Is this in the cache?")
        chunks = list(model.stream("Is this in the cache?"))
        return sum(chunks[1:], chunks[0])


def test_thirtyseven_of_the_suite_pass(request: pytest.FixtureRequest) -> None:
    """A failure fails by itself and conftest.py takes no skip without a reason: so counting what was collected does.

    Where something that the suite imports is half installed, langchain-tests skips its whole module silently.
    """
    assert counted(request, TestStandard, *UNSKILLED) == 37
