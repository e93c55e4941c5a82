"""Memory middleware for local LLMs: erase what an agent should not have read from its KV cache, after it was read.

The public names are imported when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kv_memory.audit import AuditLog
    from kv_memory.conversation.spans import CharRange, Span, SpanKind, SpanStatus
    from kv_memory.policy import Policy, Reason
    from kv_memory.sessions.memory import Memory
    from kv_memory.sessions.reply import Reply
    from kv_memory.sessions.report import RetractionReport
    from kv_memory.sessions.session import Session

__version__ = "0.1.0"

_HOME = {
    "AuditLog": "audit",
    "CharRange": "conversation.spans",
    "Memory": "sessions.memory",
    "Policy": "policy",
    "Reason": "policy",
    "Reply": "sessions.reply",
    "RetractionReport": "sessions.report",
    "Session": "sessions.session",
    "Span": "conversation.spans",
    "SpanKind": "conversation.spans",
    "SpanStatus": "conversation.spans",
}

__all__ = [
    "AuditLog",
    "CharRange",
    "Memory",
    "Policy",
    "Reason",
    "Reply",
    "RetractionReport",
    "Session",
    "Span",
    "SpanKind",
    "SpanStatus",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kv_memory' has no attribute {name!r}")
    return getattr(import_module(f"kv_memory.{_HOME[name]}"), name)
