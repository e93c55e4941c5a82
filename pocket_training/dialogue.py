"""A conversation that is written message by message and counts its tokens: for samples and cases over real text."""

from __future__ import annotations

from random import Random
from typing import Any

from kv_memory.synthetic.drafts import CHARACTERS_PER_TOKEN, TOKENS_PER_MESSAGE, describe
from kv_memory.synthetic.events import tool_call

REPLIES = ("Noted.", "All right.", "I see.", "Thank you.", "Done.", "Go on.")


class Dialogue:
    """A conversation that grows message by message."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.messages: list[dict[str, Any]] = []
        self.answers: set[int] = set()
        """Indices of the messages that answer."""
        self.used = 0.0
        """Approximate number of tokens so far."""
        self._tools: dict[str, tuple[str, ...]] = {}
        self._told: dict[str, str] = {}

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Return the tools that were called, in the OpenAI form."""
        return [describe(name, arguments) for name, arguments in self._tools.items()]

    def say(self, role: str, content: str) -> dict[str, Any]:
        """Add and return a message of this role."""
        return self._add({"role": role, "content": content}, len(content))

    def call(self, name: str, results: list[tuple[dict[str, Any], str]]) -> list[dict[str, Any]]:
        """Add an assistant turn that calls a tool once for each of the arguments, and the results; return the
        results."""
        calls: list[dict[str, Any]] = []
        for arguments, _ in results:
            calls.append(tool_call(self.rng, name, arguments))
            self._tools.setdefault(name, tuple(arguments))
        length = sum(len(name) + len(call["function"]["arguments"]) + 40 for call in calls)
        self._add({"role": "assistant", "content": "", "tool_calls": calls}, length)
        return [
            self._add({"role": "tool", "tool_call_id": call["id"], "name": name, "content": content}, len(content))
            for call, (_, content) in zip(calls, results, strict=True)
        ]

    def ask(self, question: str, answer: str, after: str = "") -> None:
        """Add a question and its answer; with `after`, the question follows that text in one message.

        The question is left out if it was answered the same before: the answer could be copied.
        """
        known = self._told.get(question) == answer
        if after or not known:
            self.say("user", after.rstrip() if known else after + question)
        if not known:
            self._told[question] = answer
            self.say("assistant", answer)
            self.answers.add(len(self.messages) - 1)

    def _add(self, message: dict[str, Any], length: int) -> dict[str, Any]:
        self.messages.append(message)
        self.used += TOKENS_PER_MESSAGE + length / CHARACTERS_PER_TOKEN
        return message
