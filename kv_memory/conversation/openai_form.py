"""Other ways to write a message, put into OpenAI's present form: `content`, `tool_calls` and `reasoning_content`.

These are OpenAI's older `function_call` and its `refusal`; content blocks of Anthropic, LangChain and the AI SDK, for
calls and thoughts; `parts`, as the AI SDK and Gemini have them. Nothing that a message says is dropped: what has no
place in the form is refused by name, here or by `parse_messages`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kv_memory.errors import ConversationError

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of an assistant's message that hold its thoughts, by which chat templates know them."""
_CALLS = {
    "tool_use": ("id", "name", "input"),
    "tool_call": ("id", "name", "args"),
    "function_call": ("call_id", "name", "arguments"),
    "tool-call": ("toolCallId", "toolName", "input"),
}
"""Types of content blocks that are calls, each with its keys for id, name and arguments."""
_THOUGHTS = {"thinking": ("thinking",), "reasoning": ("reasoning", "text", "summary")}
"""Types of content blocks that are thoughts, each with the keys that may hold the text."""
RESULTS = ("tool_result", "tool-result", "functionResponse", "function_call_output")
"""Types of content blocks that are results of tools. They are messages of their own."""
_UNREAD = ("audio", "images", "experimental_attachments", "toolInvocations")
"""Fields beside the content that hold what a chat template does not write."""
_OTHER_FORMS = ("function_call", "refusal", "parts", *_UNREAD)


def openai_form(message: Mapping[str, Any], index: int = 0) -> dict[str, Any]:
    """Return a message in OpenAI's present form; `content` is then a string, null, or a list of text parts.

    A call in `function_call` or in a content block becomes one of `tool_calls`, a refusal the content, and thoughts in
    content blocks `reasoning_content`. A text or call given in two places has to be the same. A message of
    OpenAI's form is returned as it is. Raises ConversationError, which names the message by `index`.
    """
    said = dict(message)
    if not isinstance(said.get("content"), (list, tuple)) and not any(said.get(key) for key in _OTHER_FORMS):
        return said
    unread = next((key for key in _UNREAD if said.get(key)), None)
    if unread is not None:
        raise ConversationError(f"Message {index} has a field {unread!r} that is not empty; only text can be read.")
    calls: list[dict[str, Any]] = []
    blocks = _blocks(said, index)
    if blocks is not None and said.get("role") in ("assistant", "model"):
        blocks, calls, thoughts = _sorted(blocks)
        _add_thoughts(said, "".join(thoughts))
    if said.get("function_call"):
        function = said["function_call"]
        calls.append({"id": None, "function": function if isinstance(function, Mapping) else {}})
    _add_calls(said, calls, index)
    if blocks is not None:
        said["content"] = blocks
    _add_refusal(said, index)
    return {key: value for key, value in said.items() if key not in ("function_call", "refusal", "parts")}


def _blocks(said: Mapping[str, Any], index: int) -> list[Any] | None:
    """Return the content as a list of blocks; None where it is no list."""
    content, parts = said.get("content"), said.get("parts")
    if not parts:
        return list(content) if isinstance(content, (list, tuple)) else None
    if not isinstance(parts, (list, tuple)):
        raise ConversationError(f"Message {index} has 'parts' that are no list.")
    blocks = [block for part in parts for block in _block(part)]
    if content and content != parts and _text(content) != _text(blocks):
        raise ConversationError(f"Message {index} has both content and parts, and they differ; give one of them.")
    return blocks


def _block(part: Any) -> Iterator[Any]:
    """Yield a part of the AI SDK or of Gemini as a content block; where a step of an agent begins is no content."""
    if not isinstance(part, Mapping):
        yield part
    elif "type" in part:
        yield from () if part["type"] == "step-start" else (part,)
    elif isinstance(part.get("functionCall"), Mapping):
        yield {"type": "tool_call", **part["functionCall"]}
    elif isinstance(part.get("text"), str):
        yield {"type": "reasoning" if part.get("thought") else "text", "text": part["text"]}
    else:
        yield {"type": next(iter(part), None)}  # it is refused by this name


def _sorted(blocks: Sequence[Any]) -> tuple[list[Any], list[dict[str, Any]], list[str]]:
    """Return an assistant's blocks that are its text, its calls in the flat form, and its thoughts."""
    text: list[Any] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for block in blocks:
        kind = str(block.get("type")) if isinstance(block, Mapping) else ""
        thought = next((block[key] for key in _THOUGHTS.get(kind, ()) if block.get(key)), "")
        if kind in _CALLS:
            call, name, arguments = _CALLS[kind]
            calls.append({"id": block.get(call), "name": block.get(name), "args": block.get(arguments)})
        elif kind in _THOUGHTS and isinstance(thought, (str, list)):
            thoughts.append(_text(thought))
        elif kind == "refusal" and isinstance(block.get("refusal"), str):
            text.append({"type": "text", "text": block["refusal"]})
        else:
            text.append(block)
    return text, calls, thoughts


def _text(content: Any) -> str:
    """Return the text of a string or of a list of blocks; blocks without a text have none."""
    if isinstance(content, str):
        return content
    texts = (block.get("text") if isinstance(block, Mapping) else block for block in content)
    return "".join(text for text in texts if isinstance(text, str))


def _add_thoughts(said: dict[str, Any], thoughts: str) -> None:
    """Add thoughts from blocks to those of the message's field, where one does not repeat the other."""
    key = next((key for key in REASONING if said.get(key) and isinstance(said[key], str)), "reasoning_content")
    given = said.get(key) or ""
    if thoughts and thoughts not in given:
        said[key] = thoughts if given in thoughts else given + thoughts


def _add_calls(said: dict[str, Any], calls: list[dict[str, Any]], index: int) -> None:
    given = said.get("tool_calls")
    if not calls or (given and not isinstance(given, (list, tuple))):
        return
    if not given:
        said["tool_calls"] = calls
        return
    known = [(call.get("id"), _name_of(call)) for call in given if isinstance(call, Mapping)]
    for call in calls:
        name = _name_of(call)
        if not any(name == other and call["id"] in (None, other_id) for other_id, other in known):
            raise ConversationError(
                f"Message {index} has a call of {name!r} beside its tool_calls; give all calls in tool_calls."
            )


def _name_of(call: Mapping[str, Any]) -> Any:
    function = call.get("function", call)
    return function.get("name") if isinstance(function, Mapping) else function


def _add_refusal(said: dict[str, Any], index: int) -> None:
    refusal, content = said.get("refusal"), said.get("content")
    if not refusal or said.get("role") != "assistant":
        return
    text = "" if content is None else _text(content) if isinstance(content, (str, list)) else None
    if text not in ("", refusal):
        raise ConversationError(f"Message {index} has both content and a refusal, and they differ; give one of them.")
    said["content"] = refusal
