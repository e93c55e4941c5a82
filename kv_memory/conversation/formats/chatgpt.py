"""Exports of ChatGPT: a tree of nodes in `mapping`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kv_memory.errors import ConversationError


def messages_of(export: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages up to the current node, or up to the last one; other versions of them are left out."""
    nodes, found = export["mapping"], []
    leaves = [name for name, node in nodes.items() if not node.get("children")]
    name = export.get("current_node") or next(reversed(leaves), None)
    seen: set[str] = set()
    while name is not None and name not in seen:
        if name not in nodes:
            raise ConversationError(f"The export has no node {name!r}; it is not whole.")
        seen.add(name)
        found += _message(nodes[name].get("message"))
        name = nodes[name].get("parent")
    return found[::-1]


def _message(said: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return a node's message; none for an empty one, as a conversation begins with."""
    if said is None:
        return []
    content, author = said.get("content") or {}, said.get("author") or {}
    kind, parts = content.get("content_type"), content.get("parts") or []
    if said.get("recipient", "all") != "all":
        kind, parts = f"message to {said['recipient']}", [kind]
    text = kind == "text" and all(isinstance(part, str) for part in parts)
    if text and not "".join(parts):
        return []
    message = {"role": author.get("role"), "content": "".join(parts) if text else [{"type": kind}]}
    return [
        {**message, **{key: given for key, given in (("id", said.get("id")), ("name", author.get("name"))) if given}}
    ]
