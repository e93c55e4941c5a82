"""What langchain-tests' suites may skip here, and what the pocket model is not good enough for."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel

from langchain_kv_memory import ErasableChatModel

SKIPPED = {
    "test_init_from_env": "no setting is read from the environment",
    "test_serdes": "weights and a cache cannot be serialised",
    "test_invoke_with_model_override": "the weights are loaded once",
    "test_ainvoke_with_model_override": "the weights are loaded once",
    "test_stream_with_model_override": "the weights are loaded once",
    "test_astream_with_model_override": "the weights are loaded once",
    "test_pdf_inputs": "reads text only",
    "test_audio_inputs": "reads text only",
    "test_image_inputs": "reads text only",
    "test_image_tool_message": "reads text only",
    "test_pdf_tool_message": "reads text only",
    "test_anthropic_inputs": "reads text only",
    "test_stream_time": "replays recorded HTTP calls, and there are none",
}
UNSKILLED = {
    "test_agent_loop": "the pocket model answers questions from what it has read; it calls tools when told to act",
}


class Ours:
    """What both suites have to be told of this model."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ErasableChatModel

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False


def counted(request: pytest.FixtureRequest, suite: type[Any], *without: str) -> int:
    """How many tests of a suite were collected, but for those that may be skipped and these."""
    functions = (item for item in request.session.items if isinstance(item, pytest.Function))
    ours = [item.originalname for item in functions if item.cls is suite]
    if request.config.option.keyword:
        pytest.skip("counts the suite, of which -k takes a part")
    return len([name for name in ours if name not in SKIPPED and name not in without])
