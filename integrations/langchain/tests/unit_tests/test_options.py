from __future__ import annotations

from typing import Any

import pytest
from langchain_core.tools import tool

from langchain_kv_memory import ErasableChatModel
from langchain_kv_memory.options import CallOptions, read_choice, read_format


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def bound(model: ErasableChatModel, **options: Any) -> dict[str, Any]:
    kwargs: dict[str, Any] = model.bind_tools([add], **options).kwargs  # type: ignore[attr-defined]
    return kwargs


TOOLS = bound(ErasableChatModel())["tools"]


@pytest.mark.parametrize(
    ("choice", "is_read"),
    [
        (None, "auto"),
        (False, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        ("any", "any"),
        ("required", "any"),
        (True, "any"),
        ("add", "add"),
        ({"type": "function", "function": {"name": "add"}}, "add"),
        ({"type": "any"}, "any"),
    ],
)
def test_tool_choices(choice: Any, is_read: str) -> None:
    assert read_choice(choice, TOOLS) == is_read


def test_a_tool_that_is_not_bound_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match="names 'subtract', which is not bound; bound are add"):
        ErasableChatModel().bind_tools([add], tool_choice="subtract")
    with pytest.raises(ValueError, match="needs tools"):
        read_choice("any", [])


def test_response_formats() -> None:
    schema = {"type": "object"}
    assert read_format(None) is None
    assert read_format({"type": "text"}) is None
    assert read_format({"type": "json_object"}) == schema
    assert read_format({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}) == schema
    with pytest.raises(ValueError, match="response_format is"):
        read_format({"type": "grammar"})


def test_a_calls_options_stand_over_the_models() -> None:
    defaults = {"temperature": 0.5, "max_tokens": 9, "stop": ["x"], "seed": None}
    options = CallOptions.read(defaults, None, {"temperature": 0.0, "stream": True})
    assert options.sampling == {"temperature": 0.0, "max_tokens": 9, "stop": ("x",)}
    assert CallOptions.read(defaults, ["y"], {}).sampling["stop"] == ("y",)


def test_one_stop_string_is_one() -> None:
    assert CallOptions.read({}, "END", {}).sampling["stop"] == ("END",)


def test_tools_that_a_call_gives_may_be_of_any_kind() -> None:
    anthropic = {"name": "add", "description": "Add two numbers.", "input_schema": TOOLS[0]["function"]["parameters"]}
    for given in (add, anthropic, TOOLS[0]):
        assert CallOptions.read({}, None, {"tools": [given]}).tools == TOOLS


def test_a_tool_that_only_another_provider_runs_is_named() -> None:
    with pytest.raises(ValueError, match="runs no tool of type 'web_search'"):
        ErasableChatModel().bind_tools([{"type": "web_search"}])


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ValueError, match="no option 'top_k'"):
        CallOptions.read({}, None, {"top_k": 3})


def test_structured_output_says_what_it_does_not_know() -> None:
    model = ErasableChatModel()
    with pytest.raises(ValueError, match="not 'magic'"):
        model.with_structured_output({"title": "x"}, method="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a schema"):
        model.with_structured_output()
    with pytest.raises(ValueError, match="no option 'magic'"):
        model.with_structured_output({"title": "x"}, magic=1)


def test_nothing_is_loaded_to_construct_bind_and_describe() -> None:
    model = ErasableChatModel()
    model.bind_tools([add])
    assert model.profile is not None
    assert model.profile["max_input_tokens"] > 1000
    assert (model.profile["tool_calling"], model.profile["image_inputs"]) == (True, False)
    assert model._get_ls_params()["ls_model_name"] == "pocket"
    assert ErasableChatModel(model="org/name")._get_ls_params()["ls_model_name"] == "org/name"
    assert "max_input_tokens" not in (ErasableChatModel(model="org/name").profile or {})
    assert model.asdict()["_type"] == "kv-memory"
    assert model.spans() == []
    model.forget()
    assert model.ready is None
    assert model.cache is False
