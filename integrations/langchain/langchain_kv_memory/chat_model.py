"""ErasableChatModel: a LangChain chat model over a memory, which can be told to forget what it has read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable

from langchain_kv_memory.options import read_choice, shown_tools
from langchain_kv_memory.retracting import RetractingChatModel
from langchain_kv_memory.structured import structured


class ErasableChatModel(RetractingChatModel):
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

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools. A forced `tool_choice` ("any", or a name) makes the answer exactly one call that fits its schema.

        Raises ValueError for a choice that is not among the tools, and for a tool that only another provider runs.
        """
        shown = shown_tools(tools)
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
        """Return a runnable that answers in a schema; see `BaseChatModel.with_structured_output`.

        Decoding is constrained to the schema by all methods, so an answer that ends before max_tokens fits it; `strict`
        is accepted and always so. Raises ValueError for an unknown method or option.
        """
        kwargs.pop("strict", None)
        if kwargs:
            raise ValueError(f"with_structured_output() has no option {sorted(kwargs)[0]!r}.")
        return structured(self, schema, method, include_raw=include_raw)
