"""The options of one call: sampling, tools and what they allow the model to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.utils.function_calling import convert_to_openai_tool

from kv_memory import LogitsMask, Sampling, SamplingOptions

if TYPE_CHECKING:
    from langchain_kv_memory.constrain import Grammars

_SAMPLING = ("temperature", "top_p", "max_tokens", "seed")
_IGNORED = ("stream", "strict", "parallel_tool_calls")
"""Options of other providers: calls always keep to their schema here, and a forced answer is one call."""
_KNOWN = (*_SAMPLING, *_IGNORED, "stop", "tools", "tool_choice", "close_calls", "response_format", "session_id")


@dataclass(frozen=True)
class CallOptions:
    """The options of one call."""

    sampling: SamplingOptions
    tools: list[dict[str, Any]] | None
    tool_choice: str
    """Choice of a tool: "auto", "any", "none", or the name of a tool."""
    schema: Mapping[str, Any] | None
    """JSON schema that the answer has to fit, if any."""
    close_calls: bool = False
    """Whether a forced call is closed in time when `max_tokens` come near: right for one that is an answer and that
    nobody runs."""

    @classmethod
    def read(
        cls, defaults: Mapping[str, Any], stop: Sequence[str] | str | None, kwargs: Mapping[str, Any]
    ) -> CallOptions:
        """Read a call's keyword arguments, over the model's `defaults`. Raises ValueError for unknown ones."""
        unknown = sorted(set(kwargs) - set(_KNOWN))
        if unknown:
            raise ValueError(f"This model has no option {unknown[0]!r} for a call; it knows {', '.join(_KNOWN)}.")
        tools = shown_tools(kwargs.get("tools") or ())
        sampling: dict[str, Any] = {key: defaults[key] for key in _SAMPLING if defaults.get(key) is not None}
        sampling |= {key: kwargs[key] for key in _SAMPLING if kwargs.get(key) is not None}
        if stops := stop or defaults.get("stop"):
            sampling["stop"] = (stops,) if isinstance(stops, str) else tuple(stops)
        return cls(
            SamplingOptions(**sampling),  # type: ignore[typeddict-item]  # these are its keys
            tools or None,
            read_choice(kwargs.get("tool_choice"), tools),
            read_format(kwargs.get("response_format")),
            bool(kwargs.get("close_calls")),
        )

    def mask(self, grammars: Grammars) -> LogitsMask | None:
        """Return a mask of what the model may say, None where it may say anything."""
        tools = self.tools if self.tools and self.tool_choice != "none" else []
        limit = self.sampling.get("max_tokens", Sampling.max_tokens)
        if self.schema is not None:
            return grammars.answer(tools, self.schema, limit, close_calls=self.close_calls)
        if not tools:
            return grammars.no_calls()
        if self.tool_choice == "auto":
            return grammars.calls(tools)
        chosen = [tool for tool in tools if self.tool_choice in ("any", tool["function"]["name"])]
        return grammars.answer(chosen, None, limit, close_calls=self.close_calls)


def shown_tools(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the tools in OpenAI's format. Raises ValueError for what is no tool, or one that another provider runs."""
    shown = [convert_to_openai_tool(tool) for tool in tools]
    for tool in shown:
        if "function" not in tool:
            raise ValueError(f"This model runs no tool of type {tool.get('type')!r} itself; bind a function instead.")
    return shown


def read_choice(choice: Any, tools: Sequence[Mapping[str, Any]]) -> str:
    """Read `tool_choice` in the forms of LangChain and OpenAI. Raises ValueError for a tool that is not bound."""
    if isinstance(choice, Mapping):
        choice = choice.get("function", choice).get("name", choice.get("type"))
    if choice in (None, False, "auto"):
        return "auto"
    if choice == "none":
        return "none"
    names = [tool["function"]["name"] for tool in tools]
    if choice in (True, "any", "required"):
        if not names:
            raise ValueError(f"tool_choice={choice!r} needs tools; bind at least one.")
        return "any"
    if choice not in names:
        raise ValueError(f"tool_choice names {choice!r}, which is not bound; bound are {', '.join(names) or 'none'}.")
    return str(choice)


def read_format(given: Any) -> Mapping[str, Any] | None:
    """Return the JSON schema of OpenAI's `response_format`; any object for its JSON mode; ValueError for others."""
    if given is None or given == {"type": "text"}:
        return None
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema" and isinstance(given["json_schema"].get("schema"), Mapping):
        schema: Mapping[str, Any] = given["json_schema"]["schema"]
        return schema
    raise ValueError(
        'response_format is {"type": "json_schema", "json_schema": {"name": ..., "schema": ...}} or '
        '{"type": "json_object"}; a tool strategy or with_structured_output() makes it for you.'
    )
