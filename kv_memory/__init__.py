"""Memory middleware for local LLMs: erase what an agent should not have read from its KV cache, after it was read.

These are the public names. They are imported when they are first used, so that importing the package costs nothing:
neither torch nor transformers is loaded before a model is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kv_memory.audit import AuditError, AuditLog
    from kv_memory.calibration.record import Calibration
    from kv_memory.conversation.messages import Cuts
    from kv_memory.conversation.openai_form import openai_form
    from kv_memory.conversation.redactions import Redaction
    from kv_memory.conversation.spans import CharRange, Span, SpanKind, SpanStatus, Target, target_name
    from kv_memory.conversation.token_counter import TokenCounter
    from kv_memory.conversation.tombstones import cuts_of
    from kv_memory.conversation.tool_calls.parts import InvalidCall, ReplyPart
    from kv_memory.engines.base import Engine, LogitsMask, Sampling, Tokenizer, TokenTable
    from kv_memory.engines.registry import context_length, engine_over
    from kv_memory.erasers import get_eraser
    from kv_memory.erasers.base import Eraser
    from kv_memory.errors import (
        AmbiguousTargetError,
        ArgumentError,
        ContextLengthError,
        ConversationError,
        KVMemoryError,
        ModelError,
        PolicyError,
        Refusal,
        RefusedError,
        TargetError,
        UnknownTargetError,
        UnsupportedModelError,
        UnsupportedOperationError,
    )
    from kv_memory.policy import Cascade, Category, Heal, Policy, Reason, rules
    from kv_memory.policy.requests import Request, Requests
    from kv_memory.sessions.memory import Memory
    from kv_memory.sessions.reply import FinishReason, Reply, Usage
    from kv_memory.sessions.report import RetractionReport, RetractionStatus, UndoStatus
    from kv_memory.sessions.session import Session
    from kv_memory.sessions.turn import ReplyStream, SamplingOptions
    from kv_memory.trained.files import is_trained_eraser

__version__ = "0.1.0"

_HOME = {
    "audit": ("AuditError", "AuditLog"),
    "calibration.record": ("Calibration",),
    "conversation.messages": ("Cuts",),
    "conversation.openai_form": ("openai_form",),
    "conversation.redactions": ("Redaction",),
    "conversation.token_counter": ("TokenCounter",),
    "conversation.tombstones": ("cuts_of",),
    "conversation.tool_calls.parts": ("InvalidCall", "ReplyPart"),
    "conversation.spans": ("CharRange", "Span", "SpanKind", "SpanStatus", "Target", "target_name"),
    "engines.base": ("Engine", "LogitsMask", "Sampling", "TokenTable", "Tokenizer"),
    "engines.registry": ("context_length", "engine_over"),
    "erasers": ("get_eraser",),
    "erasers.base": ("Eraser",),
    "errors": (
        "AmbiguousTargetError",
        "ArgumentError",
        "ContextLengthError",
        "ConversationError",
        "KVMemoryError",
        "ModelError",
        "PolicyError",
        "Refusal",
        "RefusedError",
        "TargetError",
        "UnknownTargetError",
        "UnsupportedModelError",
        "UnsupportedOperationError",
    ),
    "policy": ("Cascade", "Category", "Heal", "Policy", "Reason", "rules"),
    "policy.requests": ("Request", "Requests"),
    "sessions.memory": ("Memory",),
    "sessions.reply": ("FinishReason", "Reply", "Usage"),
    "sessions.report": ("RetractionReport", "RetractionStatus", "UndoStatus"),
    "sessions.session": ("Session",),
    "sessions.turn": ("ReplyStream", "SamplingOptions"),
    "trained.files": ("is_trained_eraser",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "AmbiguousTargetError",
    "ArgumentError",
    "AuditError",
    "AuditLog",
    "Calibration",
    "Cascade",
    "Category",
    "CharRange",
    "ContextLengthError",
    "ConversationError",
    "Cuts",
    "Engine",
    "Eraser",
    "FinishReason",
    "Heal",
    "InvalidCall",
    "KVMemoryError",
    "LogitsMask",
    "Memory",
    "ModelError",
    "Policy",
    "PolicyError",
    "Reason",
    "Redaction",
    "Refusal",
    "RefusedError",
    "Reply",
    "ReplyPart",
    "ReplyStream",
    "Request",
    "Requests",
    "RetractionReport",
    "RetractionStatus",
    "Sampling",
    "SamplingOptions",
    "Session",
    "Span",
    "SpanKind",
    "SpanStatus",
    "Target",
    "TargetError",
    "TokenCounter",
    "TokenTable",
    "Tokenizer",
    "UndoStatus",
    "UnknownTargetError",
    "UnsupportedModelError",
    "UnsupportedOperationError",
    "Usage",
    "context_length",
    "cuts_of",
    "engine_over",
    "get_eraser",
    "is_trained_eraser",
    "openai_form",
    "rules",
    "target_name",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'kv_memory' has no attribute {name!r}")
    return getattr(import_module(f"kv_memory.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
