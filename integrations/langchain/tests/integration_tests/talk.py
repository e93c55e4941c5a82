"""A conversation with an agent that has tools, whose results the test says."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from langchain.agents import create_agent
from langchain.tools import InjectedToolCallId, tool
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langchain_kv_memory import RetractionReport
from langchain_kv_memory.middleware import RetractionMiddleware
from langchain_kv_memory.policies import Policy

from .scripted import Scripted

THREAD: RunnableConfig = {"configurable": {"thread_id": "t"}}


class Talk:
    """One conversation with an agent that has tools, sync or async."""

    def __init__(self, model: Scripted, policies: list[Policy], *, sync: bool = True) -> None:
        self.results: list[Any] = []
        self.model = model
        self.saver = InMemorySaver()
        self.sync = sync
        self.renew(policies)

    def renew(self, policies: list[Policy]) -> None:
        """Another agent object for the same thread."""

        @tool
        def look_up(it: str) -> str:
            """Look something up."""
            return str(self._next())

        @tool(response_format="content_and_artifact")
        def retrieve(it: str) -> tuple[str, list[Document]]:
            """Retrieve documents."""
            documents = self._next()
            return "\n\n".join(d.page_content for d in documents), documents

        @tool
        def withdraw(it: str, call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
            """Name the results that were wrong."""
            said = ToolMessage("Withdrawn.", tool_call_id=call_id)
            return Command(update={"messages": [said], "pending_retractions": [self._next()]})

        look_up.handle_tool_error = True
        self.agent = create_agent(
            self.model,
            [look_up, retrieve, withdraw],
            middleware=[RetractionMiddleware(policies)],
            checkpointer=self.saver,
        )

    def say(self, text: str, *results: Any) -> AIMessage:
        self.results += results
        given: Any = {"messages": [("user", text)]}
        state = self.agent.invoke(given, THREAD) if self.sync else asyncio.run(self.agent.ainvoke(given, THREAD))
        answer = state["messages"][-1]
        assert isinstance(answer, AIMessage)
        return answer

    def _next(self) -> Any:
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    @property
    def state(self) -> dict[str, Any]:
        return self.agent.get_state(THREAD).values

    @property
    def tool_messages(self) -> list[ToolMessage]:
        return [m for m in self.state["messages"] if isinstance(m, ToolMessage)]

    @property
    def reports(self) -> list[RetractionReport]:
        return [RetractionReport.model_validate(r) for r in self.state.get("retractions", [])]

    def cells(self, message: ToolMessage) -> int:
        """How many cells the content of a tool result occupies."""
        spans = self.model.spans(config=THREAD)
        return next(s.tokens for s in spans if s.tool_call_id == message.tool_call_id and s.kind == "tool_result")
