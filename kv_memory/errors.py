"""The errors of kv_memory: each says in one sentence what was wrong and what to do."""

from __future__ import annotations

from dataclasses import dataclass


class KVMemoryError(Exception):
    """Base of every error that kv_memory raises on purpose."""


class ArgumentError(KVMemoryError, TypeError, ValueError):
    """An argument of a call is of the wrong type, or has no value that is allowed. Nothing was changed."""


class ConversationError(KVMemoryError):
    """The messages cannot be read: empty, malformed, or of a kind that the chat template cannot express."""


class TargetError(KVMemoryError):
    """A retraction names something that this session does not hold."""


class UnknownTargetError(TargetError):
    """Nothing in the session has this id."""


class AmbiguousTargetError(TargetError):
    """Several things in the session have this id; the message lists the span ids to choose from."""


class ContextLengthError(KVMemoryError):
    """The conversation does not fit in the model's context or in the memory's token budget."""


class ModelError(KVMemoryError):
    """A model cannot be loaded, or its path is not one."""


class UnsupportedModelError(ModelError):
    """The model has layers whose cache cannot be edited by the cell (sliding window, linear attention, state space)."""


class UnsupportedOperationError(KVMemoryError):
    """The engine lacks a capability that this eraser or call needs."""


class PolicyError(KVMemoryError):
    """A policy cannot be read; the message names the file, the field and what is allowed."""


@dataclass(frozen=True)
class Refusal:
    """A span that an actor may not retract, and why. Never holds text."""

    by: str
    id: str
    """Id of the span."""
    kind: str
    """Kind of the span, a SpanKind."""
    why: str
    """Explanation how to allow it."""


class RefusedError(KVMemoryError):
    """An actor asked to retract spans that it has no authority over. Nothing was changed."""

    def __init__(self, message: str, refusals: tuple[Refusal, ...] = ()) -> None:
        super().__init__(message)
        self.refusals = refusals
        """Refusals, one for each span that was refused."""
