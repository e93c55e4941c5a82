"""What langchain-tests' suites may skip here, and what the pocket model is not good enough for."""

from __future__ import annotations

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
UNSKILLED = (
    "test_tool_calling",
    "test_tool_calling_async",
    "test_agent_loop",
    "test_unicode_tool_call_integration",
)
