"""Retractions that rules and tools ask for, gathered: one for each asker and each category of reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from kv_memory.policy.reasons import Category, Reason

T = TypeVar("T")
"""Type of a target: kv_memory's own, or that of an integration."""


@dataclass
class Request(Generic[T]):
    """One retraction that is asked for."""

    by: str
    """The one who asks; see `Authority.refusals`."""
    category: Category
    targets: list[T] = field(default_factory=list)
    reasons: dict[str, None] = field(default_factory=dict)
    """The reasons in words, each once."""

    @property
    def reason(self) -> Reason:
        """Return all its reasons as one."""
        return Reason(category=self.category, text="; ".join(self.reasons))


class Requests(Generic[T]):
    """The requests, in the order in which they were first made."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, Category], Request[T]] = {}

    def __iter__(self) -> Iterator[Request[T]]:
        return iter(self._requests.values())

    def __bool__(self) -> bool:
        return bool(self._requests)

    def add(self, by: str, category: Category, target: T, reason: str) -> None:
        """Ask for a target to be retracted."""
        request = self._requests.setdefault((by, category), Request(by, category))
        request.targets.append(target)
        request.reasons[reason] = None
