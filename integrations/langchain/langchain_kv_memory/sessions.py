"""The session that a call belongs to.

`_generate` and `_stream` never see a RunnableConfig, so the public entry points put the session id among the call's
options. A session is one thread: sub-agents and summarizers that share it become branches of it, by content.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableConfig, ensure_config

ANONYMOUS = "anonymous"
"""Session of calls that name none. Its conversations are told apart by their content alone."""


def session_id_of(config: RunnableConfig | None = None, session_id: str | None = None) -> str:
    """Return the session id: as given, else `session_id` or `thread_id` of the config or of the current run."""
    configurable = ensure_config(config).get("configurable") or {}
    found = next(
        (i for i in (session_id, configurable.get("session_id"), configurable.get("thread_id")) if i), ANONYMOUS
    )
    return str(found)


class SessionEntryPoints(BaseChatModel):
    """A chat model whose public entry points pass the session id on as the option `session_id`."""

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """Answer a conversation; see `BaseChatModel.invoke`."""
        return super().invoke(input, config, **_named(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer a conversation; see `BaseChatModel.ainvoke`."""
        return await super().ainvoke(input, config, **_named(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Answer a conversation chunk by chunk; see `BaseChatModel.stream`."""
        return super().stream(input, config, **_named(config, kwargs))

    def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Answer a conversation chunk by chunk; see `BaseChatModel.astream`."""
        return super().astream(input, config, **_named(config, kwargs))

    def stream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Answer a conversation as events; see `BaseChatModel.stream_events`."""
        return super().stream_events(input, config, **_named(config, kwargs))

    def astream_events(
        self,
        input: Any,
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answer a conversation as events; see `BaseChatModel.astream_events`."""
        return super().astream_events(input, config, **_named(config, kwargs))


def _named(config: RunnableConfig | None, options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "session_id": session_id_of(config, options.get("session_id"))}
