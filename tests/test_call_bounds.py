"""A call is retracted whole, and nothing of another call or of a result with it."""

from __future__ import annotations

from typing import Any

import pytest

from kv_memory import ArgumentError
from tests.test_templates import CALLS, END, TURN, call, cells, said, session_of

# calls in one list, as Mistral's and Apriel's
LISTED = (
    "{%- for m in messages %}" + TURN + "{{ m.content }}{%- if m.tool_calls %}{{ '<calls>[' }}"
    "{%- for c in m.tool_calls %}{{ c.function | tojson }}{%- if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}"
    "{{ ']</calls>' }}{% endif %}" + END
)
# arguments between tags, as Qwen3-Coder's and GLM's
TAGGED = (
    "{%- for m in messages %}"
    + TURN
    + "{{ m.content }}"
    + CALLS.replace(
        "BODY",
        "{{ '\\n<function=' + call.function.name + '>\\n' }}{%- for k, v in call.function.arguments.items() %}"
        "{{ '<parameter=' + k + '>\\n' }}{{ v }}{{ '\\n</parameter>\\n' }}{% endfor %}{{ '</function>\\n' }}",
    )
    + END
)
# a result says whose it is, as gpt-oss's
NAMED_RESULTS = (
    "{%- set ns = namespace(name='') %}{%- for m in messages %}" + TURN + "{%- if m.tool_calls %}"
    "{%- set ns.name = m.tool_calls[0].function.name %}"
    "{{ 'to=' + ns.name + m.tool_calls[0].function.arguments | tojson }}"
    "{% endif %}{%- if m.role == 'tool' %}{{ ns.name + ' says ' }}{% endif %}{{ m.content }}" + END
)


def talk(*calls: dict[str, Any]) -> list[dict[str, Any]]:
    return [said("user", "one"), said("assistant", "", tool_calls=list(calls)), said("user", "two")]


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        (0, '<calls>[, {"name": "look2", "arguments": {"q": "bb"}}]</calls>'),
        (1, '<calls>[{"name": "look1", "arguments": {"q": "aa"}}]</calls>'),
    ],
)
def test_of_two_calls_in_a_list_the_other_stays_whole(gone: int, left: str) -> None:
    session = session_of(LISTED)
    session.prefill(talk(call("c1", 1, q="aa"), call("c2", 2, q="bb")))
    session.retract(f"s1.call{gone}", eraser="recompute")
    assert left in cells(session)


def test_tags_that_a_call_has_opened_go_with_it() -> None:
    session = session_of(TAGGED)
    session.prefill(talk(call("c1", 1, q="aa", n=5)))
    session.retract("c1", eraser="recompute")
    assert "<tool_call>\n\n</tool_call>" in cells(session)
    assert "parameter" not in cells(session)


def test_a_name_that_is_written_with_the_result_stays_there() -> None:
    session = session_of(NAMED_RESULTS)
    result = said("tool", "three", tool_call_id="c1")
    session.prefill([*talk(call("c1", 1, q="aa"))[:2], result])
    session.retract("s1.call0", eraser="recompute")
    assert "look1 says three" in cells(session)
    assert "aa" not in cells(session)


@pytest.mark.parametrize("text", ["caf\u00e9", "x\u2028y"])
def test_one_text_that_is_written_in_another_way_changes_no_other(text: str) -> None:
    """The template strips what it writes, and would not be followed if one argument were not found."""
    strips = "{%- for m in messages %}" + TURN + "{{ m.content | trim }}" + END
    session = session_of(strips)
    session.prefill([said("user", "  one \n"), *talk(call("c1", 1, q=text))[1:]])
    assert "user\none<|im_end|>" in cells(session)


def test_a_template_that_recurses_without_end_refuses() -> None:
    session = session_of("{%- macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}")
    with pytest.raises(Exception, match="chat template cannot say") as raised:
        session.prefill([said("user", "one")])
    assert type(raised.value).__name__ == "ConversationError"


def test_a_call_whose_id_is_another_one_now_is_read_again() -> None:
    ids = (
        "{%- for m in messages %}"
        + TURN
        + "{{ m.content }}"
        + CALLS.replace("BODY", "{{ call.id + call.function.name + call.function.arguments | tojson }}")
    )
    session = session_of(ids + END)
    for name in ("c1", "c2"):
        session.prefill(talk(call(name, 1)))
        assert f"<tool_call>{name}look1{{}}</tool_call>" in cells(session)


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_message_that_is_empty_is_what_the_template_makes_of_it(blank: str) -> None:
    asks = (
        "{%- if messages[0].role == 'system' and messages[0].content %}{{ 'SYSTEM ' + messages[0].content }}"
        "{% else %}{{ 'DEFAULT' }}{% endif %}{%- for m in messages if m.role != 'system' and m.content | trim %}"
    )
    session = session_of(asks + TURN + "{{ m.content }}" + END)
    history = [said("system", ""), said("user", "one"), said("assistant", blank, id="a"), said("user", "two")]
    session.prefill(history)
    assert cells(session) == "DEFAULT<|im_start|>user\none<|im_end|>\n<|im_start|>user\ntwo<|im_end|>\n"
    session.retract(session.spans()[1].id, eraser="recompute")
    assert "one" not in cells(session)
    session.prefill([*history[:3], said("user", "three")])
    assert cells(session) == "DEFAULT<|im_start|>user\n<|im_end|>\n<|im_start|>user\nthree<|im_end|>\n"


DEEP: Any = {}
for _ in range(5000):
    DEEP = {"properties": DEEP}


@pytest.mark.parametrize("parameters", [DEEP, {"properties": {1: {}, "a": {}}}, {"enum": {1, 2}}])
@pytest.mark.parametrize("method", ["prefill", "chat"])
def test_tools_that_are_no_json_are_refused_in_one_sentence(parameters: Any, method: str) -> None:
    session = session_of(LISTED)
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    with pytest.raises(ArgumentError, match="tools"):
        getattr(session, method)([said("user", "one")], tools)
