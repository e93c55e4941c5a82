"""ErasableChatModel: a LangChain chat model over a memory, which can be told to forget what it has read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from langchain_core.callbacks import dispatch_custom_event
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import run_in_executor
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from kv_memory import Reason, Span
from kv_memory.policy import Cascade
from kv_memory.policy.authority import OWNER
from langchain_kv_memory.generating import AnsweringChatModel
from langchain_kv_memory.options import read_choice
from langchain_kv_memory.report import RetractionReport
from langchain_kv_memory.retraction import Missing, Retraction, Scope, Target
from langchain_kv_memory.sessions import session_id_of
from langchain_kv_memory.structured import structured


class ErasableChatModel(AnsweringChatModel):
    """A local chat model that keeps each conversation in its KV cache and can erase parts of it.

    ```python
    model = ErasableChatModel()  # the embedded pocket model; or model="path/or/hub-id"; or .wrap(what_is_loaded)
    agent = create_agent(model, tools, checkpointer=saver)
    agent.invoke({"messages": [...]}, config)  # config["configurable"]["thread_id"] names the session
    report = model.retract(tool_message, config=config, reason="the API returned a wrong price")
    ```

    Weights load at the first call; its errors are those of `kv_memory.Memory`. A conversation that does not fit raises
    ConversationTooLongError, which is also LangChain's ContextOverflowError. LangChain's response cache is off by
    default, since it could replay an answer made from retracted text.
    """

    on_retract: Callable[[RetractionReport], object] | None = Field(default=None, exclude=True, repr=False)
    """Called with the report of each retraction; inside a run a `kv_memory_retraction` event is dispatched as well."""

    def retract(
        self,
        *targets: Target,
        session_id: str | None = None,
        config: RunnableConfig | None = None,
        messages: Sequence[BaseMessage] | None = None,
        scope: Scope | None = None,
        mode: str | None = None,
        reason: Reason | str = "",
        by: str = OWNER,
        cascade: Cascade | None = None,
        keep_undo: bool | None = None,
        missing: Missing = "warn",
        wait: bool = True,
        dry_run: bool = False,
    ) -> RetractionReport:
        """Erase what these targets name from the model's cache, and keep it out of what the model reads later.

        A target is a tool call id (its result), message id, document id or span id; a message; a Document; or a
        CharRange. The session is that of `session_id`, `config` or the run that this is called in. Messages are
        retracted in it, documents in all sessions; `scope` says otherwise. `mode`: "exact", or the name of an eraser.

        `messages`: the conversation that is meant, where the model may not have read all of it yet. `missing`: what to
        do about a target that is not there. `wait=False` only notes the retraction and never blocks; each session makes
        it before its next answer. `dry_run` changes nothing and reports what would be erased.

        The history is the caller's: `report.tombstones(messages)` gives what to put into it, and `retract_in_graph`
        does both.

        `reason`, `by`, `cascade` and `keep_undo` are those of `kv_memory.Session.retract`.

        Raises, before anything is changed, UnknownTargetError (with missing="error"), AmbiguousTargetError, TargetError
        for characters outside the message, RefusedError (`by` may not), UnsupportedOperationError for an eraser that
        the model cannot do.
        """
        wish = Retraction(
            targets,
            session_id_of(config, session_id),
            scope=scope,
            eraser={"exact": "recompute"}.get(mode or "", mode),
            default=self.eraser,
            reason=reason,
            by=by,
            cascade=cascade,
            keep_undo=keep_undo,
            missing=missing,
            messages=messages,
            dry_run=dry_run,
        )
        if not wait:
            return wish.queue(self.memory or self.loader.loaded, self._tell)
        report = wish.carry_out(self.load())
        if report.parts and not dry_run:
            self._tell(report)
        return report

    async def aretract(self, *targets: Target, **options: Any) -> RetractionReport:
        """As `retract`, in a worker thread."""
        return await run_in_executor(None, partial(self.retract, *targets, **options))

    def undo(self, report: RetractionReport) -> None:
        """Take a retraction back: the sessions read again what their callers' histories hold.

        The text itself is not kept: where tombstones stand in a history, put the messages back first.
        """
        memory = self.load()
        for part in report.parts:
            session = memory.get(part.session)
            if session is not None:
                session.undo(part)

    def spans(self, *, session_id: str | None = None, config: RunnableConfig | None = None) -> list[Span]:
        """What of the session's conversation is in the cache: messages, documents and calls, with their ids."""
        session = self.load().get(session_id_of(config, session_id))
        return session.spans() if session else []

    def forget(self, *, session_id: str | None = None, config: RunnableConfig | None = None) -> None:
        """Remove the session with its cells and its retractions; no error when there is none."""
        self.load().forget(session_id_of(config, session_id))

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools. A forced `tool_choice` ("any", or a name) makes the answer exactly one call that fits its schema.

        Raises ValueError for a choice that is not among the tools.
        """
        shown = [convert_to_openai_tool(tool) for tool in tools]
        read_choice(tool_choice, shown)
        chosen = {} if tool_choice is None else {"tool_choice": tool_choice}
        return self.bind(tools=shown, **chosen, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        include_raw: bool = False,
        method: Literal["function_calling", "json_schema", "json_mode"] = "function_calling",
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Answers as objects of a schema; see `BaseChatModel.with_structured_output`.

        Decoding is constrained to the schema by all methods, so an answer that ends before max_tokens fits it; `strict`
        is accepted and always so. Raises ValueError for an unknown method or option.
        """
        kwargs.pop("strict", None)
        if kwargs:
            raise ValueError(f"with_structured_output() has no option {sorted(kwargs)[0]!r}.")
        return structured(self, schema, method, include_raw=include_raw)

    def _tell(self, report: RetractionReport) -> None:
        if self.on_retract is not None:
            self.on_retract(report)
        try:
            dispatch_custom_event("kv_memory_retraction", report.model_dump(mode="json"))
        except RuntimeError:
            return  # outside a run nobody listens
