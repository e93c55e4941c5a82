"""AgentDojo's recorded runs (Debenedetti et al., arXiv 2406.13352): where the injected text is in a tool result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kv_memory.conversation.spans import CharRange

FILE = "agentdojo_workspace_travel.jsonl"


def injected(record: Mapping[str, Any]) -> tuple[list[dict[str, Any]], CharRange] | None:
    """Return the messages of a run, with ids, and the first injected text that one of its tool results
    holds; white space may differ. None where no tool result has one.
    """
    messages = [{**message, "id": f"m{number}"} for number, message in enumerate(record["messages"])]
    for text in filter(str.strip, record["injections"].values()):
        form = as_written(text)
        hits = ((m["id"], form.search(m["content"] or "")) for m in messages if m["role"] == "tool")
        for message, found in hits:
            if found:
                return messages, CharRange(message=message, start=found.start(), end=found.end())
    return None


def as_written(text: str) -> re.Pattern[str]:
    """Return a pattern for the text as YAML or a Python literal has it: other white space, quotes doubled or
    escaped."""
    words = [re.sub(r"(\\?['\"])", r"(?:\\\\|')?\1", re.escape(word)) for word in text.split()]
    return re.compile(r"(?:\s|\\n|\\)+".join(words))
