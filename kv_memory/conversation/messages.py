"""Messages in OpenAI's chat format, parsed into one shape with an identity and a digest.

This module knows nothing of tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from kv_memory.conversation.openai_form import REASONING, RESULTS, openai_form
from kv_memory.errors import ConversationError
from kv_memory.positions import merge, subtract

ROLES = ("system", "user", "assistant", "tool")
_ROLE_NAMES = {"developer": "system", "function": "tool", "model": "assistant"}


@dataclass(frozen=True)
class ToolCall:
    """One call in an assistant message; `arguments` is the parsed object."""

    id: str | None
    name: str
    arguments: Any


@dataclass(frozen=True)
class DocumentPart:
    """Characters [start, end) of a message's content that are one document."""

    id: str
    start: int
    end: int


@dataclass(frozen=True)
class Cuts:
    """Parts that are left out of a message: characters of its content, and tool calls by their number."""

    chars: tuple[tuple[int, int], ...] = ()
    calls: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.chars or self.calls)

    def cut(self, text: str) -> str:
        """Return a message's text without these characters."""
        return cut_text(text, self.chars)

    def within(self, start: int, end: int) -> Cuts:
        """Return the cuts inside [start, end) of the text, with offsets counted from `start`."""
        inside = ((max(a, start) - start, min(b, end) - start) for a, b in self.chars if a < end and b > start)
        return Cuts(tuple(inside))

    def __or__(self, other: Cuts) -> Cuts:
        return Cuts(tuple(sorted({*self.chars, *other.chars})), self.calls | other.calls)

    def __sub__(self, other: Cuts) -> Cuts:
        """Return the cuts that are in `self` alone."""
        return Cuts(tuple(subtract(self.chars, other.chars)), self.calls - other.calls)


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    id: str | None = None
    name: str | None = None
    documents: tuple[DocumentPart, ...] = ()
    reasoning: str = ""
    """Thoughts of the assistant that came beside the content; they are retracted with the whole message."""
    reasoning_key: str = ""
    """Name of the field in which they came."""
    placeholder: bool = False
    """Whether the caller put this text in the place of a message with the same id, whose text is to be erased.
    Otherwise it is ordinary text."""
    identity: str = ""
    """Name of the message among those of a session: the keyed digest of its original (`Originals.identify`)."""
    guessed: Cuts = Cuts()
    """Parts of which it is not sure that this version has them: another part of the same length may be there."""
    missing: Cuts = Cuts()
    """Parts of the original that this version of it lacks. Offsets and numbers of calls are those of the original; the
    content has NUL characters there."""

    def digest(self) -> str:
        """Return what tells the message from others: its identity, or where it has none the SHA-256, in hex, of role,
        content and tool calls; ids do not count."""
        return self.identity or self._digest

    @cached_property
    def _digest(self) -> str:
        calls = [[call.name, call.arguments] for call in self.tool_calls]
        said = json.dumps([self.role, self.content, calls, *filter(None, [self.reasoning])], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def wholly_in(self, cuts: Cuts) -> bool:
        """Return whether cuts take out all of the content and all calls."""
        content = subtract([(0, len(self.content))], cuts.chars)
        return not content and cuts.calls >= frozenset(range(len(self.tool_calls)))

    def overwritten(self, cuts: Cuts) -> Message:
        """Return the message with what is cut replaced by NUL characters, so that the offsets of the rest stay true."""
        content = self.content
        for start, end in cuts.chars:
            content = content[:start] + "\0" * (end - start) + content[end:]
        calls = (
            replace(call, name="", arguments={}) if i in cuts.calls else call for i, call in enumerate(self.tool_calls)
        )
        reasoning = "" if self.wholly_in(cuts) else self.reasoning
        return replace(self, content=content, tool_calls=tuple(calls), reasoning=reasoning)

    def with_ids_of(self, other: Message) -> Message:
        """Return the message with the ids that another version of it has: its own, those of its calls and documents.

        An id that the other lacks is kept, and so are documents that the other divides in another way.
        """
        calls, documents = self.tool_calls, self.documents
        if len(calls) == len(other.tool_calls):
            calls = tuple(
                replace(call, id=given.id) if given.id is not None and given.id != call.id else call
                for call, given in zip(calls, other.tool_calls, strict=True)
            )
        if len(self.content) == len(other.content) and _places(documents) in ([], _places(other.documents)):
            documents = other.documents
        name = self.id if other.id is None else other.id
        call_id = self.tool_call_id if other.tool_call_id is None else other.tool_call_id
        if (name, call_id, calls, documents) == (self.id, self.tool_call_id, self.tool_calls, self.documents):
            return self
        return replace(self, id=name, tool_call_id=call_id, tool_calls=calls, documents=documents)


def _places(documents: Sequence[DocumentPart]) -> list[tuple[int, int]]:
    return [(document.start, document.end) for document in documents]


def ids_differ(a: str | None, b: str | None) -> bool:
    """Return whether two ids show that the messages differ; a missing id shows nothing."""
    return a is not None and b is not None and a != b


def cut_text(text: str, cuts: Iterable[tuple[int, int]]) -> str:
    """Return `text` without the characters of these intervals."""
    kept, at = [], 0
    for start, end in sorted(cuts):
        kept.append(text[at:start])
        at = max(at, end)
    return "".join([*kept, text[at:]])


def uncut(interval: tuple[int, int], cuts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return an interval of the text that `cut_text` left as an interval of the original text."""
    start, end = interval
    at = 0
    for a, b in sorted(cuts):
        length, at = max(0, b - max(a, at)), max(at, b)
        start += length * (a <= start)
        end += length * (a < end)
    return start, end


def recut(interval: tuple[int, int], cuts: Collection[tuple[int, int]]) -> tuple[int, int]:
    """Return an interval of a text as an interval of what `cut_text` leaves of the text."""

    def left(end: int) -> int:
        return end - sum(min(b, end) - a for a, b in merge(cuts) if a < end)

    return left(interval[0]), left(interval[1])


def parse_messages(messages: Any) -> list[Message]:
    """Parse a conversation; ConversationError names the message and what is wrong with it.

    Content is a string, null (nothing), or a list of text parts; a part with a `document_id` is a document of its own.
    Parts are joined with nothing between them. Only a message with tool calls, thoughts or a placeholder may lack it.
    Tool calls have OpenAI's form, or a flat one with `name` and `args`; arguments are an object or its JSON. Other
    forms are read as `openai_form` has them. `placeholder: true` says that the caller put this text in the place of a
    message with the same id.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise ConversationError("A conversation is a list of messages, each an object with role and content.")
    parsed = [_parse_message(m, i) for i, m in enumerate(messages)]
    if not parsed:
        raise ConversationError("The conversation is empty; give at least one message.")
    return parsed


def _parse_message(message: Any, index: int) -> Message:
    if not isinstance(message, Mapping):
        raise ConversationError(f"Message {index} is not an object with role and content.")
    role = message.get("role")
    role = _ROLE_NAMES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise ConversationError(f"Message {index} has the role {message.get('role')!r}; known are {', '.join(ROLES)}.")
    message = openai_form(message, index)
    content, documents = _parse_content(message.get("content"), index)
    calls = message.get("tool_calls") or ()
    thought = next((key for key in REASONING if isinstance(message.get(key), str) and message[key]), "")
    if not isinstance(calls, (list, tuple)) or (calls and role != "assistant"):
        raise ConversationError(f"Message {index}: tool_calls is a list and belongs to the assistant.")
    placeholder = message.get("placeholder") is True
    if "content" not in message and not (calls or thought or placeholder):
        raise ConversationError(f'Message {index} ({role}) has no content; give it as "content", "" where it is empty.')
    return Message(
        role=role,
        content=content,
        tool_calls=tuple(_parse_call(call, index) for call in calls),
        tool_call_id=_text_or_none(message.get("tool_call_id")),
        id=_text_or_none(message.get("id")),
        name=_text_or_none(message.get("name")),
        documents=documents,
        reasoning=message[thought] if thought and role == "assistant" else "",
        reasoning_key=thought if role == "assistant" else "",
        placeholder=placeholder,
    )


def _parse_content(content: Any, index: int) -> tuple[str, tuple[DocumentPart, ...]]:
    if content is None:
        return "", ()
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, (list, tuple)):
        raise ConversationError(f"Message {index}: content is a string or a list of text parts.")
    text, documents = "", []
    for given in content:
        part = {"type": "text", "text": given} if isinstance(given, str) else given
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            how = "give it as a message of role 'tool'" if kind in RESULTS else "only text can be read"
            raise ConversationError(f"Message {index} has a content part of type {kind!r}; {how}.")
        if part.get("document_id") is not None:
            documents.append(DocumentPart(str(part["document_id"]), len(text), len(text) + len(part["text"])))
        text += part["text"]
    return text, tuple(documents)


def _parse_call(call: Any, index: int) -> ToolCall:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if isinstance(function, str):
        function = {"name": function, "arguments": call.get("args")}
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or function is None:
        raise ConversationError(f"Message {index} has a tool call without a function name.")
    arguments = function.get("arguments", function.get("args"))
    return ToolCall(_text_or_none(call.get("id")), name, _parse_arguments(arguments, name, index))


def _parse_arguments(given: Any, name: str, index: int) -> Mapping[str, Any]:
    """Return the arguments of a call as the object that chat templates expect.

    Nothing and an empty text are no arguments. JSON text that was encoded as JSON once more is decoded twice.
    """
    try:
        found = _decoded(_decoded(given))
        json.dumps(found, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        found = None
    if not isinstance(found, Mapping):
        raise ConversationError(
            f"Message {index}: the arguments of the call of {name!r} are no JSON object; give an object, or its JSON."
        )
    return found


def _decoded(arguments: Any) -> Any:
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return {}
    return json.loads(arguments) if isinstance(arguments, str) else arguments


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)
