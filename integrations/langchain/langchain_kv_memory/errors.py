"""Errors that LangChain code can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core.exceptions import ContextOverflowError

from kv_memory import ContextLengthError


class ConversationTooLongError(ContextLengthError, ContextOverflowError):
    """The conversation does not fit; LangChain's middleware knows it as ContextOverflowError."""


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Raise kv_memory's errors as the classes that LangChain knows."""
    try:
        yield
    except ContextLengthError as error:
        raise ConversationTooLongError(str(error)) from error
