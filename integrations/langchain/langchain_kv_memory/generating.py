"""Answering: the four methods that LangChain calls, over one session of the memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import closing
from functools import partial
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from kv_memory import ReplyStream
from langchain_kv_memory.answer import chunks_of, message_of
from langchain_kv_memory.background import StopFlag, iterate
from langchain_kv_memory.convert import PROVIDER, to_openai
from langchain_kv_memory.errors import langchain_errors
from langchain_kv_memory.options import CallOptions
from langchain_kv_memory.sessions import session_id_of
from langchain_kv_memory.settings import LocalChatModel


class AnsweringChatModel(LocalChatModel):
    """A chat model that answers in sessions; asynchronous calls run in a thread and stop when cancelled."""

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return next(self._results(messages, stop, kwargs, StopFlag()))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        results = [result async for result in iterate(partial(self._results, messages, stop, kwargs))]
        return results[0]

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self._chunks(messages, stop, kwargs, StopFlag()):
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in iterate(partial(self._chunks, messages, stop, kwargs)):
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _results(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any], flag: StopFlag
    ) -> Generator[ChatResult]:
        with langchain_errors():
            stream, metadata = self._answer(messages, stop, kwargs, flag)
            with closing(stream):
                reply = stream.finish()
            flag.check()
            yield ChatResult(generations=[ChatGeneration(message=message_of(reply, metadata))])

    def _chunks(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any], flag: StopFlag
    ) -> Generator[ChatGenerationChunk]:
        with langchain_errors():
            stream, metadata = self._answer(messages, stop, kwargs, flag)
            with closing(stream):
                yield from chunks_of(stream, metadata)

    def _answer(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any], flag: StopFlag
    ) -> tuple[ReplyStream, dict[str, Any]]:
        """Return an answer that is yet to be written, and its metadata."""
        options = CallOptions.read(self.__dict__, stop, kwargs)
        memory = self.load()
        options.sampling["may_call"] = options.tool_choice != "none"
        options.sampling["mask"] = options.mask(self.loader.grammars(memory))
        session = memory.session(session_id_of(session_id=kwargs.get("session_id")))
        stream = session.stream(
            to_openai(messages, self.placeholders),
            options.tools,
            cancelled=flag.is_set,
            progress=flag.check,
            history_eraser="recompute" if self.on_history_edit == "recompute" else self.named_eraser,
            **options.sampling,
        )
        cache = {"session": session.id, "retractions": [report.id for report in session.reports]}
        return stream, {"model_name": self._name, "model_provider": PROVIDER, "kv_memory": cache}
