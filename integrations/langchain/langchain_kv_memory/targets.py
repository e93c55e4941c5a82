"""The targets that LangChain code can name to be retracted, and their conversion to kv_memory's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage

from kv_memory import CharRange
from kv_memory import Target as CoreTarget
from langchain_kv_memory.convert import to_openai
from langchain_kv_memory.documents import document_id

Target = str | BaseMessage | Document | CharRange
"""A span id, tool call id, message id or document id; a message; a document; characters of a message."""
Scope = Literal["session", "all"]
Missing = Literal["warn", "error", "ignore"]


def core_target(target: Target) -> CoreTarget:
    """Return the target as kv_memory knows it. Raises TypeError for what is none."""
    if isinstance(target, BaseMessage):
        said: Mapping[str, Any] = to_openai([target], ())[0]
        return said
    if isinstance(target, Document):
        return document_id(target)
    if isinstance(target, (str, CharRange)):
        return target
    hint = "; give several as retract(first, second)" if isinstance(target, (list, tuple, set)) else ""
    raise TypeError(f"A target is an id, a message, a Document or a CharRange; got {type(target).__name__}{hint}.")


def check_choice(name: str, given: str | None, allowed: Any) -> None:
    """Raise ValueError where an option is given and is none of those of the Literal."""
    if given is not None and given not in get_args(allowed):
        raise ValueError(f"{name} is one of {', '.join(map(repr, get_args(allowed)))}, not {given!r}.")
