"""The check who may retract what. A request that is not allowed is refused, and each refusal can be logged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict, field_validator

from kv_memory.arguments import check
from kv_memory.conversation.ledger import KINDS, Selection
from kv_memory.conversation.spans import SpanKind
from kv_memory.errors import Refusal, RefusedError

OWNER = "owner"
"""Name of the owner: code that calls the library directly."""

_READ = (SpanKind.TOOL_CALL, SpanKind.TOOL_RESULT, SpanKind.DOCUMENT)


class Spanned(Protocol):
    """Anything with the id and kind of a span."""

    @property
    def id(self) -> str:
        """Return the span's id."""
        ...

    @property
    def kind(self) -> str:
        """Return the span's kind, a SpanKind."""
        ...


@dataclass(frozen=True)
class Claim:
    """A span that is to be retracted, in whole or in part.

    `kind` is that of the text: characters of a user's message are `user`, unless they are inside a document of it.
    """

    id: str
    kind: SpanKind


class Authority(BaseModel):
    """The kinds of spans that each actor may retract. The owner may retract everything.

    `range` is a part of a span, whose own kind counts: it need not be listed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: tuple[SpanKind, ...] = (SpanKind.USER, SpanKind.ASSISTANT, *_READ)
    """Kinds of spans that the person in the conversation may retract."""
    tool: tuple[SpanKind, ...] = _READ
    """Kinds of spans that a tool may retract by naming what it invalidates."""
    policy: tuple[SpanKind, ...] = (SpanKind.ASSISTANT, *_READ)
    """Kinds of spans that the rules of a policy may retract, and a session about itself."""
    session: tuple[SpanKind, ...] = ()
    """Kinds of spans that another session may retract."""

    @field_validator("user", "tool", "policy", "session")
    @classmethod
    def _no_ranges(cls, kinds: tuple[SpanKind, ...]) -> tuple[SpanKind, ...]:
        if SpanKind.RANGE in kinds:
            raise ValueError("'range' is no kind of its own; list the kind of the message that it is part of.")
        return kinds

    def refusals(self, by: str, spans: Sequence[Spanned], *, session: str | None = None) -> tuple[Refusal, ...]:
        """Return a refusal for each of the spans that `by` may not retract, in their order.

        `by`: "owner", "user", "tool", "policy" or "session:<id>". `session`: id of the session that the spans belong
        to; a session has the authority of its policy over itself. Nobody else may retract anything.
        """
        check("by", by, str, "who asks: owner, user, tool, policy or session:<id>")
        if by == OWNER:
            return ()
        group = _group(by, session)
        allowed: tuple[SpanKind, ...] = getattr(self, group) if group else ()
        how = (
            f"to allow it, add {{kind!r}} to authority.{group} of the policy"
            if group
            else "known are owner, user, tool, policy and session:<id>"
        )
        return tuple(
            Refusal(by, span.id, span.kind, how.format(kind=str(span.kind)))
            for span in spans
            if span.kind not in allowed
        )

    def check(self, by: str, spans: Sequence[Spanned], *, session: str | None = None) -> None:
        """Raise RefusedError, with its `refusals`, if `by` may not retract all of these spans; see `refusals`."""
        refused = self.refusals(by, spans, session=session)
        if refused:
            first = refused[0]
            others = f" (nor {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise RefusedError(
                f"{by!r} may not retract the {first.kind} span {first.id}{others}; {first.why}.", refused
            )


def claims(chosen: Iterable[Selection]) -> tuple[Claim, ...]:
    """Return what taking these selections out of a conversation claims: a span for each kind of text."""
    return tuple(dict.fromkeys(claim for selection in chosen for claim in _claims(selection)))


def _claims(chosen: Selection) -> list[Claim]:
    message = chosen.entry.message
    kinds = [SpanKind.TOOL_CALL] if chosen.cuts.calls else []
    for start, end in chosen.cuts.chars:
        inside = any(document.start <= start and end <= document.end for document in message.documents)
        if end > start or not chosen.cuts.calls:
            kinds.append(SpanKind.DOCUMENT if inside and end > start else KINDS[message.role])
    return [Claim(chosen.span_id, kind) for kind in dict.fromkeys(kinds)]


def _group(by: str, session: str | None) -> str | None:
    """Return the field of Authority for an actor."""
    if by in ("user", "tool", "policy"):
        return by
    if by.startswith("session:"):
        return "policy" if session is not None and by == f"session:{session}" else "session"
    return None
