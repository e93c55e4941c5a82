"""Agent middleware: retracts what its policies find stale, wrong or hostile from the model's cache and the agent's
state."""

from __future__ import annotations

import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import add
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware import AgentMiddleware, AgentState, ExtendedModelResponse, ModelRequest, ModelResponse
from langchain.agents.middleware.types import OmitFromInput, PrivateStateAttr
from langchain.tools.tool_node import ToolCallRequest
from langchain_core.messages import AnyMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableWithFallbacks, run_in_executor
from langchain_core.runnables.base import RunnableBindingBase
from langgraph.config import get_config
from langgraph.runtime import Runtime
from langgraph.types import Command, Overwrite

from kv_memory import RefusedError, Request
from langchain_kv_memory.chat_model import ErasableChatModel
from langchain_kv_memory.policies import PROVENANCE, Policy
from langchain_kv_memory.report import RetractionReport
from langchain_kv_memory.requests import requests_of
from langchain_kv_memory.targets import Target

Update = dict[str, Any]
_Result = ToolMessage | Command[Any]
_Response = ModelResponse[Any] | ExtendedModelResponse[Any]


def append_reports(known: list[Update], new: list[Update]) -> list[Update]:
    """Return the reports of both, each once: a sub-agent returns its parent's too."""
    ids = {report["id"] for report in known}
    return [*known, *(report for report in new if report["id"] not in ids)]


class RetractionState(AgentState[Any]):
    """The part of an agent's state that the middleware keeps."""

    pending_retractions: NotRequired[Annotated[list[str], PrivateStateAttr, add]]
    """Ids that a tool has named: `Command(update={"messages": [...], "pending_retractions": ["call_1"]})`."""
    retractions: NotRequired[Annotated[list[Update], OmitFromInput, append_reports]]
    """Reports, oldest first; `RetractionReport.model_validate` reads one."""


class RetractionMiddleware(AgentMiddleware[RetractionState, Any, Any]):
    """Middleware that retracts, before each model call, what policies decide and what tools have named, once each.

    The messages stay in the agent's state, under their ids and without the retracted text: a tool call whose result had
    been removed would be refused by other models. A result that is retracted before the model has read it is never
    read.

    `model`: the agent's, or that from which to retract; by default the one that the agent calls, known from its first
    call on. Middleware that reads the messages earlier, such as a summarizer, comes after this one in the list.
    """

    state_schema = RetractionState

    def __init__(self, policies: Sequence[Policy] = (), *, model: ErasableChatModel | None = None) -> None:
        super().__init__()
        for policy in policies:
            if isinstance(policy, type) or not hasattr(policy, "decide"):
                raise TypeError(f"{policy!r} is no policy; give objects with a method decide(messages).")
        self.policies = tuple(policies)
        self.model = model

    def before_model(self, state: RetractionState, runtime: Runtime[Any]) -> Update | None:
        """Decide and retract, once it is known from which model."""
        return self._retract(self.model, state) if self.model else None

    async def abefore_model(self, state: RetractionState, runtime: Runtime[Any]) -> Update | None:
        """Do the same as `before_model`; the policies run in a thread."""
        return await self._aretract(self.model, state) if self.model else None

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> _Response:
        """Learn the model on the first call and do what `before_model` could not."""
        if self.model is not None or (model := _erasable(request.model)) is None:
            return handler(request)
        self.model = model
        update = self._retract(self.model, request.state)
        return _with_update(handler(_tombstoned(request, update)), update)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> _Response:
        """Do the same as `wrap_model_call`, for asynchronous calls."""
        if self.model is not None or (model := _erasable(request.model)) is None:
            return await handler(request)
        self.model = model
        update = await self._aretract(self.model, request.state)
        return _with_update(await handler(_tombstoned(request, update)), update)

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], _Result]) -> _Result:
        """Note which tool ran and when."""
        return _stamped(handler(request), request)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[_Result]]
    ) -> _Result:
        """Do the same as `wrap_tool_call`, for asynchronous calls."""
        return _stamped(await handler(request), request)

    def _retract(self, model: ErasableChatModel, state: Any) -> Update | None:
        requests = requests_of(self.policies, state)
        reports: list[RetractionReport] = []
        said = messages = list(state["messages"])
        for request in requests:  # all count the characters of what the policies have read
            with _refused_is_a_warning():
                reports.append(model.retract(*request.targets, messages=said, **_options(request)))
                messages = _replaced(messages, reports[-1].tombstones(messages))
        return _update(reports, said, messages) if requests else None

    async def _aretract(self, model: ErasableChatModel, state: Any) -> Update | None:
        requests = await run_in_executor(None, requests_of, self.policies, state)
        reports: list[RetractionReport] = []
        said = messages = list(state["messages"])
        for request in requests:  # all count the characters of what the policies have read
            with _refused_is_a_warning():
                report = await model.aretract(*request.targets, messages=said, **_options(request))
                reports.append(report)
                messages = _replaced(messages, report.tombstones(messages))
        return _update(reports, said, messages) if requests else None


def _erasable(model: object) -> ErasableChatModel | None:
    """Return the ErasableChatModel that it is or calls first: with_config, bind, with_retry and with_fallbacks wrap
    it."""
    while not isinstance(model, ErasableChatModel):
        if isinstance(model, RunnableBindingBase):
            model = model.bound
        elif isinstance(model, RunnableWithFallbacks):
            model = model.runnable
        else:
            return None
    return model


def _options(request: Request[Target]) -> dict[str, Any]:
    """Return how a retraction is asked for: in the session of this run, and what is missing is a warning."""
    asked = {"reason": request.reason, "by": request.by}
    return {"config": get_config(), "scope": "session", "missing": "warn", **asked}


@contextmanager
def _refused_is_a_warning() -> Iterator[None]:
    """Warn instead of failing where a policy or tool may not retract what it named; the audit log has it."""
    try:
        yield
    except RefusedError as error:
        warnings.warn(f"Nothing was retracted: {error}", stacklevel=2)


def _replaced(messages: Sequence[AnyMessage], tombstones: Sequence[BaseMessage]) -> list[AnyMessage]:
    by_id: dict[str | None, Any] = {message.id: message for message in tombstones}
    return [by_id.get(message.id, message) for message in messages]


def _update(reports: Sequence[RetractionReport], before: Sequence[BaseMessage], after: Sequence[BaseMessage]) -> Update:
    return {
        "messages": [new for old, new in zip(before, after, strict=True) if new is not old],
        "retractions": [report.model_dump(mode="json") for report in reports],
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
