"""Numbers of messages, from which the ids of spans are made."""

from __future__ import annotations

from kv_memory.conversation.messages import Message


class SpanNumbers:
    """The numbers of all messages that a session and its forks have met.

    The same message after the same messages has one number, however often and in whatever branch it is prefilled; the
    next new one has the next number. So a number never means two texts, and in a conversation that only grows it is
    the place of the message.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int | None, str, str | None], int] = {}

    def of(self, message: Message, before: int | None) -> int:
        """Return the number of a message; `before` is that of the message before it, None at the beginning."""
        return self._known.setdefault((before, message.digest(), message.tool_call_id), len(self._known))
