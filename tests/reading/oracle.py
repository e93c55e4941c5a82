"""What a template itself writes of a conversation, and whether it loses some of it."""

from __future__ import annotations

import copy
import html
import json
from collections.abc import Iterator
from typing import Any

from kv_memory.conversation.messages import parse_messages
from kv_memory.conversation.sentinels import Plain
from kv_memory.conversation.template import TemplateTraits, adapt
from kv_memory.errors import ConversationError
from tests.reading.shapes import Messages

Tools = list[dict[str, Any]] | None


class Oracle:
    """One tokenizer and its template."""

    def __init__(self, tokenizer: Any) -> None:
        """Read with kv_memory's tokenizer over a Hugging Face tokenizer; only its rendering is used."""
        self._tokenizer = tokenizer

    def text(self, messages: Messages, tools: Tools) -> str:
        """Return what the template writes. Raises ConversationError where it refuses."""
        return str(self._tokenizer.render(copy.deepcopy(messages), copy.deepcopy(tools), False))

    def mapped(self, messages: Messages, tools: Tools) -> str:
        """Return what it writes once what it would lose or refuse is told in another way."""
        traits = TemplateTraits.probe(self._tokenizer, with_tools=bool(tools))
        shown, given = adapt(parse_messages(wire(messages)), tools, Plain(), traits, lambda text: False)
        return self.text(shown, given)

    def whole(self, messages: Messages, tools: Tools) -> str | None:
        """Return what the template writes, None where it refuses or loses something."""
        try:
            text = self.text(messages, tools)
        except ConversationError:
            try:
                text = self.text(wire(messages), tools)  # arguments as JSON text
            except ConversationError:
                return None
        return None if lost(text, messages, tools) else text


def wire(messages: Messages) -> Messages:
    """Return messages as they are sent: arguments are JSON texts."""
    sent = copy.deepcopy(messages)
    for message in sent:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return sent


def lost(text: str, messages: Messages, tools: Tools) -> bool:
    """Return whether a text lacks something of a conversation."""
    return not all(any(v in text for v in variants(part)) for part in parts(messages, tools))


def parts(messages: Messages, tools: Tools) -> Iterator[str]:
    """Yield what has to be in the text: contents but for thoughts, names, string arguments."""
    if any(message["role"] == "user" for message in messages):  # some list the tools with the user's message
        yield from (tool["function"]["description"] for tool in tools or ())
    for message in messages:
        yield message["content"].split("</think>")[-1].strip()
        for call in message.get("tool_calls", ()):
            yield call["function"]["name"]
            yield from (str(v) for v in call["function"]["arguments"].values() if isinstance(v, str) or v == 736251)


def variants(text: str) -> list[str]:
    """Return the ways in which templates write a text."""
    escaped = json.dumps(text)[1:-1]
    return [text, escaped, json.dumps(escaped)[1:-1], html.escape(text).replace("&quot;", "&#34;")]
