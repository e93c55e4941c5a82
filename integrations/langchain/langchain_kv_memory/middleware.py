"""Agent middleware: what its policies find stale, wrong or hostile leaves the model's cache and the agent's state."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from operator import add
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware import AgentMiddleware, AgentState, ExtendedModelResponse, ModelRequest, ModelResponse
from langchain.agents.middleware.types import OmitFromInput, PrivateStateAttr
from langchain.tools.tool_node import ToolCallRequest
from langchain_core.messages import AnyMessage, BaseMessage, ToolMessage
from langchain_core.runnables import run_in_executor
from langgraph.config import get_config
from langgraph.runtime import Runtime
from langgraph.types import Command, Overwrite

from kv_memory import CharRange
from langchain_kv_memory.chat_model import ErasableChatModel
from langchain_kv_memory.decisions import Decision, named
from langchain_kv_memory.policies import PROVENANCE, Policy
from langchain_kv_memory.report import RetractionReport
from langchain_kv_memory.retraction import Target

Update = dict[str, Any]
_Result = ToolMessage | Command[Any]
_Response = ModelResponse[Any] | ExtendedModelResponse[Any]


def append_reports(known: list[Update], new: list[Update]) -> list[Update]:
    """The reports of both, each once: a sub-agent hands its parent's back."""
    ids = {report["id"] for report in known}
    return [*known, *(report for report in new if report["id"] not in ids)]


class RetractionState(AgentState[Any]):
    """What the middleware keeps in an agent's state."""

    pending_retractions: NotRequired[Annotated[list[str], PrivateStateAttr, add]]
    """Ids that a tool has named: `Command(update={"messages": [...], "pending_retractions": ["call_1"]})`."""
    retractions: NotRequired[Annotated[list[Update], OmitFromInput, append_reports]]
    """The reports, oldest first; `RetractionReport.model_validate` reads one."""


class RetractionMiddleware(AgentMiddleware[RetractionState, Any, Any]):
    """Before each model call, retracts once what the policies decide and what tools have named.

    The messages stay in the agent's state, under their ids and without the retracted text: a tool call whose result
    had been removed would be refused by other models. A result that is retracted before the model has read it is never
    read.

    `model`: the agent's, or that from which to retract; by default the one that the agent calls, known from its first
    call on. Middleware that reads the messages earlier, such as a summarizer, comes after this one in the list.
    """

    state_schema = RetractionState

    def __init__(self, policies: Sequence[Policy] = (), *, model: ErasableChatModel | None = None) -> None:
        super().__init__()
        self.policies = tuple(policies)
        self.model = model

    def before_model(self, state: RetractionState, runtime: Runtime[Any]) -> Update | None:
        """Decide and retract, once it is known from which model."""
        return self._retract(self.model, state) if self.model else None

    async def abefore_model(self, state: RetractionState, runtime: Runtime[Any]) -> Update | None:
        """As `before_model`; the policies run in a thread."""
        return await self._aretract(self.model, state) if self.model else None

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> _Response:
        """On the first call, learn the model and do what `before_model` could not."""
        if self.model is not None or not isinstance(request.model, ErasableChatModel):
            return handler(request)
        self.model = request.model
        update = self._retract(self.model, request.state)
        return _with_update(handler(_tombstoned(request, update)), update)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> _Response:
        """As `wrap_model_call`."""
        if self.model is not None or not isinstance(request.model, ErasableChatModel):
            return await handler(request)
        self.model = request.model
        update = await self._aretract(self.model, request.state)
        return _with_update(await handler(_tombstoned(request, update)), update)

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], _Result]) -> _Result:
        """Note which tool ran and when."""
        return _stamped(handler(request), request)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[_Result]]
    ) -> _Result:
        """As `wrap_tool_call`."""
        return _stamped(await handler(request), request)

    def _retract(self, model: ErasableChatModel, state: Any) -> Update | None:
        targets, reason = self._decide(state)
        if not targets:
            return None
        messages = state["messages"]
        report = model.retract(
            *targets, config=get_config(), messages=messages, scope="session", reason=reason, missing="warn"
        )
        return _update(report, messages)

    async def _aretract(self, model: ErasableChatModel, state: Any) -> Update | None:
        targets, reason = await run_in_executor(None, self._decide, state)
        if not targets:
            return None
        messages = state["messages"]
        report = await model.aretract(
            *targets, config=get_config(), messages=messages, scope="session", reason=reason, missing="warn"
        )
        return _update(report, messages)

    def _decide(self, state: Any) -> tuple[list[Target], str]:
        messages: list[AnyMessage] = state["messages"]
        decisions: list[Decision] = []
        unknown: list[Target] = []
        for target in state.get("pending_retractions") or ():
            meant = list(named(messages, target, "named by a tool"))
            decisions += meant
            unknown += [] if meant else [target]
        decisions += [decision for policy in self.policies for decision in policy.decide(messages)]
        reasons = [decision.reason for decision in decisions]
        return [*unknown, *(_target(d) for d in decisions)], "; ".join(dict.fromkeys(reasons))


def _target(decision: Decision) -> Target:
    message = decision.message
    if decision.chars is None:
        return message
    id = message.tool_call_id if isinstance(message, ToolMessage) else message.id
    return CharRange(message=str(id), start=decision.chars[0], end=decision.chars[1])


def _update(report: RetractionReport, messages: Sequence[BaseMessage]) -> Update:
    return {
        "messages": report.tombstones(messages),
        "retractions": [report.model_dump(mode="json")],
        "pending_retractions": Overwrite([]),
    }


def _tombstoned(request: ModelRequest[Any], update: Update | None) -> ModelRequest[Any]:
    replaced = {message.id: message for message in update["messages"]} if update else {}
    return request.override(messages=[replaced.get(message.id, message) for message in request.messages])


def _with_update(response: ModelResponse[Any], update: Update | None) -> _Response:
    return ExtendedModelResponse(response, Command(update=update)) if update else response


def _stamped(result: _Result, request: ToolCallRequest) -> _Result:
    update = result.update if isinstance(result, Command) else {"messages": [result]}
    provenance = {"tool": request.tool_call["name"], "at": time.time()}
    for message in update.get("messages", ()) if isinstance(update, dict) else ():
        if isinstance(message, ToolMessage):
            message.response_metadata[PROVENANCE] = provenance
    return result
