"""Calls in a session's answers: their tokens are theirs, and what was cut off is no call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kv_memory import CharRange, FinishReason, Memory, Session, SpanKind
from kv_memory.engines.base import Token
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.testing.chat import CHATML, tiny_model, tiny_tokenizer
from tests.tool_calls import answers
from tests.tool_calls.answers import TOOLS, hermes, plain

SPECIAL = ["[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<|channel|>", "<|message|>", "<|start|>", "<|end|>"]
ASKED: list[dict[str, Any]] = [{"role": "user", "content": "q"}]
# roles and channels as gpt-oss has them
CHANNELS = (
    "{%- for m in messages %}{%- if m.role != 'assistant' %}"
    "{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% else %}"
    "{%- if m.thinking %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}"
    "{%- for c in m.tool_calls or [] %}{{ '<|start|>assistant<|channel|>commentary to=functions.' + c.function.name }}"
    "{{- '<|message|>' }}{{ c.function.arguments | tojson }}{{ '<|end|>' }}{% endfor %}"
    "{%- if m.content %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}{% endif %}"
    "{%- endif %}{% endfor %}{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)


def engine_of(special: list[str], template: str = CHATML) -> TransformersEngine:
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_tokens(special, special_tokens=True)
    return TransformersEngine(tiny_model(), tokenizer, name="tiny")


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the model write a text, token by token."""

    def prepare(text: str, finish: Any = "stop") -> None:
        def generate(self: TransformersEngine, seq: int, *_: Any) -> Iterator[Token]:
            ids = self.tokenizer.encode(text, special=True)[0]
            self.prefill(seq, ids)
            shown = [self.tokenizer.decode([i]) for i in ids]
            assert "".join(shown) == text
            yield from (Token(i, piece) for i, piece in zip(ids, shown, strict=True))
            yield Token(-1, "", finish)

        monkeypatch.setattr(TransformersEngine, "generate", generate)

    return prepare


def cells(session: Session) -> str:
    branch = session.branches.latest
    assert branch is not None
    tokenizer: Any = branch.engine.tokenizer
    return str(tokenizer.hf.decode(branch.engine.tokens(branch.seq), skip_special_tokens=False))


LISTED = f"[TOOL_CALLS][{plain('get_weather', {'city': 'FIRST'})}, {plain('get_order', {'city': 'SECOND'})}]"
NAMED = '[TOOL_CALLS]get_weather[ARGS]{"city": "FIRST"}[TOOL_CALLS]get_order[ARGS]{"city": "SECOND"}'
LLAMA = f"<|python_tag|>{plain('get_weather', {'city': 'FIRST'})}; {plain('get_order', {'city': 'SECOND'})}"
BARE = f"{plain('get_weather', {'city': 'FIRST'})}\n{plain('get_order', {'city': 'SECOND'})}"
HERMES = f"{hermes('get_weather', {'city': 'FIRST'})}\n{hermes('get_order', {'city': 'SECOND'})}"
CODER = f"{answers.coder('get_weather', {'city': 'FIRST'})}\n{answers.coder('get_order', {'city': 'SECOND'})}"


@pytest.mark.parametrize("text", [LISTED, NAMED, LLAMA, BARE, HERMES, CODER, f"I look.\n\n{HERMES}\nWait."])
@pytest.mark.parametrize("number", [0, 1])
def test_a_retraction_of_one_call_erases_its_tokens_alone(say: Callable[..., None], text: str, number: int) -> None:
    session = Memory(engine_of(SPECIAL[:3]), heal="never").session("s")
    say(text)
    reply = session.chat(ASKED, TOOLS)
    assert text in cells(session)
    before = cells(session)
    calls = reply.message["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["get_weather", "get_order"]
    report = session.retract(calls[number]["id"], eraser="recompute")
    assert [span.kind for span in report.spans] == [SpanKind.TOOL_CALL]
    gone, kept = ("FIRST", "SECOND") if number == 0 else ("SECOND", "FIRST")
    left = cells(session)
    assert gone not in left
    assert kept in left
    start, end = (before.index('"FIRST"'), before.index('"SECOND"')) if "parameter" not in text else (0, 0)
    assert len(before) - len(left) <= max(end - start, len(text) // 2 + 20)
    assert ("Wait." in left) == ("Wait." in text)


def test_content_around_calls_is_at_its_characters(say: Callable[..., None]) -> None:
    session = Memory(engine_of([]), heal="never").session("s")
    say(f"I look.\n\n{HERMES}\nWait a bit.")
    reply = session.chat(ASKED, TOOLS)
    assert reply.message["content"] == "I look.\nWait a bit."
    talk = [*ASKED, {**reply.message, "id": "a"}]
    start = reply.message["content"].index("Wait")
    session.retract(CharRange(message="a", start=start, end=start + 5), messages=talk, eraser="recompute")
    assert "Wait" not in cells(session)
    assert "a bit." in cells(session)
    assert "SECOND" in cells(session)


@pytest.mark.parametrize(
    "text", [HERMES, BARE, NAMED, CODER, f"I look.\n\n{HERMES}\nWait.", HERMES[:30], HERMES[:-40], LISTED[:-20]]
)
def test_an_answer_that_comes_back_is_read_as_the_template_writes_it(say: Callable[..., None], text: str) -> None:
    memory = Memory(engine_of(SPECIAL[:3]), heal="never")
    session, fresh = memory.session("s"), memory.session("fresh")
    say(text)
    reply = session.chat(ASKED, TOOLS)
    talk = [*ASKED, reply.message, {"role": "user", "content": "and now"}]
    usage = session.prefill(talk, TOOLS)
    fresh.prefill(talk, TOOLS)
    as_written = text in (HERMES, HERMES[:30])
    assert (usage.prefilled < 40) == as_written
    assert cells(session) == cells(fresh)


@pytest.mark.parametrize("call", [hermes, answers.custom, answers.mistral, answers.coder])
def test_a_call_that_max_tokens_cut_off_is_invalid(say: Callable[..., None], call: Any) -> None:
    session = Memory(engine_of(SPECIAL[:3]), heal="never").session("s")
    text = call("get_order", {"city": "W-1042"})
    text = text[: text.index("W-") + 2]
    say(text, "length")
    stream = session.stream(ASKED, TOOLS)
    parts = list(stream.parts())
    reply = stream.reply
    assert reply is not None
    assert reply.finish_reason is FinishReason.LENGTH
    assert reply.message == {"role": "assistant", "content": text}
    (invalid,) = reply.invalid_calls
    assert (invalid.name, invalid.text) == ("get_order", text)
    assert [part.kind for part in parts] == ["content", "invalid"]
    after = session.prefill([*ASKED, reply.message, {"role": "user", "content": "go on"}], TOOLS)
    assert after.prefilled < 60


def test_thoughts_that_the_template_began_hold_no_call(say: Callable[..., None]) -> None:
    template = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>' }}{% endif %}")
    assert template != CHATML
    session = Memory(engine_of([], template), heal="never").session("s")
    say(f"I could {HERMES}</think>No.")
    reply = session.chat(ASKED, TOOLS)
    assert reply.message == {"role": "assistant", "content": f"I could {HERMES}</think>No."}


def test_an_answer_in_channels(say: Callable[..., None]) -> None:
    session = Memory(engine_of(SPECIAL[3:], CHANNELS), heal="never").session("s")
    say(
        "<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant<|channel|>commentary to=functions.get_order"
        '<|message|>{"city": "Ulm"}'
    )
    reply = session.chat(ASKED, TOOLS)
    (call,) = reply.message["tool_calls"]
    assert call["function"] == {"name": "get_order", "arguments": '{"city": "Ulm"}'}
    assert (reply.message["content"], reply.message["thinking"]) == ("", "Look it up.")
    result = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
    talk = [*ASKED, reply.message, result]
    usage = session.prefill(talk, TOOLS)
    assert usage.prefilled < 60
    assert "Look it up." in cells(session)
    say("<|channel|>final<|message|>It is sunny.")
    assert session.chat(talk, TOOLS).message["content"] == "It is sunny."
    session.retract(call["id"], eraser="recompute")
    assert "sunny<|end|>" not in cells(session)


def test_a_quoted_marker_makes_no_call_where_the_model_has_none(say: Callable[..., None]) -> None:
    session = Memory(engine_of([]), heal="never").session("s")
    say(LISTED)
    assert session.chat(ASKED, TOOLS).message == {"role": "assistant", "content": LISTED}
