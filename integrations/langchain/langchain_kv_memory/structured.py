"""`with_structured_output`: an answer that keeps to a schema, and its parser."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

METHODS = ("function_calling", "json_schema", "json_mode")


def structured(
    model: BaseChatModel, schema: Mapping[str, Any] | type | None, method: str, *, include_raw: bool
) -> Runnable[LanguageModelInput, Any]:
    """Return a runnable for structured answers; see `ErasableChatModel.with_structured_output`."""
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}, not {method!r}.")
    if schema is None and method != "json_mode":
        raise ValueError(f"method={method!r} needs a schema; without one use method='json_mode'.")
    shown = {} if schema is None else {"ls_structured_output_format": {"kwargs": {"method": method}, "schema": schema}}
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    parser: Any
    if method == "function_calling":
        assert schema is not None, "checked above"
        tool = convert_to_openai_tool(schema)
        name = tool["function"]["name"]
        llm = model.bind_tools([tool], tool_choice=name, close_calls=True, **shown)
        parser = (
            PydanticToolsParser(tools=[schema], first_tool_only=True)
            if is_class
            else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        )
    else:
        llm = model.bind(response_format=_response_format(schema), **shown)
        parser = PydanticOutputParser(pydantic_object=schema) if is_class else JsonOutputParser()
    if not include_raw:
        answer: Runnable[LanguageModelInput, Any] = llm | parser
        return answer
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _response_format(schema: Mapping[str, Any] | type | None) -> dict[str, Any]:
    if schema is None:
        return {"type": "json_object"}
    json_schema = convert_to_json_schema(schema)  # type: ignore[arg-type]  # a mapping or a class
    return {"type": "json_schema", "json_schema": {"name": json_schema.get("title", "answer"), "schema": json_schema}}
