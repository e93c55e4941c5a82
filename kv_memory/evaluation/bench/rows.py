"""The rows of a bench: one for each case and treatment, a line of JSON each."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Row(BaseModel):
    """The result of one treatment of one case."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    suite: str
    case: str
    conversation: str
    """Cases of one conversation are not independent: intervals are over conversations."""
    kind: str
    groups: dict[str, str | int | float]
    tokens: int
    """Tokens of the context."""
    erased: int
    following: int
    """Kept tokens after the first span's start: those that a recompute runs again."""
    treatment: str
    kl: float
    """Mean KL from never-saw over the scored tokens, in nats."""
    agrees: bool
    """Whether greedy decoding gives never-saw's tokens."""
    seconds: float
    recomputed: int
    answer: str | None = None
    """Greedy answer; None where given tokens are scored."""
    right: bool | None = None
    """Whether the answer is right; None where nothing is known to be."""
    misled: bool | None = None
    """Whether the answer gives what only the spans say; None where that is not known."""
