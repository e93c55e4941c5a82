"""The oracle: what may be visible of a conversation, from the rules alone.

What may be visible of a message is the message as it was first read, less the union of the retractions in force. A
history may hold any version of it. What an editor emptied or put a placeholder into is no retraction. Of messages that
are alike, without ids, one is meant; the rules leave open which where the places of the others have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Text = tuple[str, str, tuple[tuple[str, str], ...]]
"""What is said: role, content, and names and arguments of the calls."""


@dataclass(frozen=True)
class Said:
    """A message as it was first read."""

    uid: int
    role: str
    parts: tuple[tuple[str, str | None], ...]
    """Texts, each with the id of the document that it is."""
    words: tuple[tuple[int, int], ...] = ()
    """Intervals of its words."""
    id: str | None = None
    call_id: str | None = None
    calls: tuple[tuple[str, str], ...] = ()
    """Ids of its calls, each with the word that is its argument."""

    @property
    def content(self) -> str:
        return "".join(text for text, _ in self.parts)

    @property
    def text(self) -> Text:
        return self.role, self.content, tuple(("look", word) for _, word in self.calls)

    @property
    def ids(self) -> tuple[str | None, str | None]:
        return self.id, self.call_id

    @property
    def whole(self) -> Parts:
        return Parts(frozenset(range(len(self.content))), frozenset(range(len(self.calls))))

    def documents(self) -> Iterator[tuple[str, frozenset[int]]]:
        at = 0
        for text, name in self.parts:
            if name is not None:
                yield name, frozenset(range(at, at + len(text)))
            at += len(text)


@dataclass(frozen=True)
class Parts:
    """Characters and calls of a message."""

    chars: frozenset[int] = frozenset()
    calls: frozenset[int] = frozenset()

    def __or__(self, other: Parts) -> Parts:
        return Parts(self.chars | other.chars, self.calls | other.calls)

    def __sub__(self, other: Parts) -> Parts:
        return Parts(self.chars - other.chars, self.calls - other.calls)

    def __and__(self, other: Parts) -> Parts:
        return Parts(self.chars & other.chars, self.calls & other.calls)

    def __le__(self, other: Parts) -> bool:
        return self.chars <= other.chars and self.calls <= other.calls

    def __bool__(self) -> bool:
        return bool(self.chars or self.calls)


@dataclass(frozen=True, repr=False)
class Version:
    """A message as a history holds it."""

    said: Said
    missing: Parts = Parts()
    """What tombstones of it lack."""
    edit: str | None = None
    """Text that an editor put in its place: nothing, or a placeholder."""

    def __repr__(self) -> str:
        return f"<{self.said.uid}: {self.message()}>"

    @property
    def own(self) -> Parts:
        """Return what it has of its original."""
        return Parts() if self.edit is not None else self.said.whole - self.missing

    def message(self, hidden: Parts = Parts()) -> dict[str, Any]:
        """Return it in OpenAI's format, less what is hidden."""
        said, own = self.said, self.own - hidden
        found: dict[str, Any] = {"role": said.role}
        parts, at = [], 0
        for text, name in said.parts:
            kept = "".join(c for i, c in enumerate(text, at) if i in own.chars)
            parts.append({"type": "text", "text": kept, **({} if name is None else {"document_id": name})})
            at += len(text)
        documents = any(name for _, name in said.parts)
        found["content"] = parts if documents else "".join(str(part["text"]) for part in parts)
        if self.edit is not None:
            found |= {"content": self.edit} | ({"placeholder": True} if self.edit else {})
        found |= {name: value for name, value in (("id", said.id), ("tool_call_id", said.call_id)) if value}
        calls = [
            {"id": name, "function": {"name": "look", "arguments": {"word": word}}}
            for number, (name, word) in enumerate(said.calls)
            if number in own.calls
        ]
        return found | ({"tool_calls": calls} if said.calls else {})


@dataclass(frozen=True)
class Record:
    """Part of a message that a retraction keeps out."""

    text: Text
    ids: tuple[str | None, str | None]
    parts: Parts
    place: tuple[int, tuple[int, ...], int] | None = None
    """Of a message without ids: its uid, those of the messages like it before it, and that of the one before it."""
    sure: bool = True
    """Whether it is in force for certain: one of several like it was taken out of force, and nobody knows which."""


def place_of(talk: Sequence[Version], number: int) -> tuple[int, tuple[int, ...], int]:
    """Return what tells a message without ids from others like it."""
    said = talk[number].said
    alike = tuple(v.said.uid for v in talk[:number] if v.said.text == said.text)
    before = talk[number - 1] if number else None
    return said.uid, alike, -1 if before is None else before.said.uid if before.edit is None else -2


def differ(a: str | None, b: str | None) -> bool:
    return a is not None and b is not None and a != b


@dataclass
class Hidden:
    """What is to be hidden of a message that is sent."""

    must: Parts = Parts()
    may: Parts = Parts()
    """Where this is more, the rules leave open what of it is."""
    blank: bool = False
    """Whether nothing is left of it, and it may be what is left of another message, around which the template writes
    something else."""


@dataclass
class Everything:
    """All messages that were ever said in a history, and what was ever retracted of them."""

    by_text: dict[Text, list[Said]] = field(default_factory=dict)
    ever: dict[Text, Parts] = field(default_factory=dict)
    unclear: set[Text] = field(default_factory=set)
    """Texts of which a retraction split a part that was gone: nobody knows the text of its halves any more."""

    def note(self, text: Text, parts: Parts) -> None:
        """Note a retraction."""
        before = self.ever.get(text, Parts())
        runs = _edges(before.chars)
        if any(edge in before.chars and edge - 1 in before.chars and edge not in runs for edge in _edges(parts.chars)):
            self.unclear.add(text)
        self.ever[text] = before | parts

    def blank(self, version: Version) -> bool:
        """Return whether a message of which nothing is left may be one of several that were retracted."""
        said = version.said
        others = [text for text in self.ever if text != said.text and text[0] == said.role]
        alike = any(not any(map(differ, said.ids, other.ids)) for text in others for other in self.by_text[text])
        return not version.own and (alike or said.ids == (None, None))

    def may_be(self, version: Version, record: Record) -> bool:
        """Return whether a message of which nothing is left may be the one that was retracted, which had other text."""
        said = version.said
        other = said.text != record.text and said.role == record.text[0] and not any(map(differ, said.ids, record.ids))
        return other and self.blank(version)

    def mistakable(self, version: Version) -> bool:
        """Return whether a message may be taken for what is left of one whose text is unclear."""
        said = version.said
        return any(
            text[0] == said.role
            and len(said.content) <= len(text[1])
            and any(not any(map(differ, said.ids, other.ids)) for other in self.by_text[text])
            for text in self.unclear
        )


def _edges(chars: Iterable[int]) -> set[int]:
    held = set(chars)
    return {i for i in held if i - 1 not in held} | {i + 1 for i in held if i + 1 not in held}


def hidden(talk: Sequence[Version], records: Sequence[Record], said: Everything) -> list[Hidden]:
    """Return what is to be hidden of each message of a conversation."""
    found = [Hidden() for _ in talk]
    for record in dict.fromkeys(records):
        alike = [
            i for i, v in enumerate(talk) if v.said.text == record.text and not any(map(differ, v.said.ids, record.ids))
        ]
        if record.ids != (None, None):  # a message without ids may have got one since, as an answer does
            alike = [i for i in alike if talk[i].said.ids == record.ids] or alike
        emptied = any(said.may_be(v, record) for v in talk)
        known = record.sure and len(alike) == 1 and talk[alike[0]].edit is None and not emptied
        if len(alike) > 1 and record.place is not None:
            meant = [i for i in alike if place_of(talk, i) == record.place]
            known, alike = record.sure and len(meant) == 1, meant if len(meant) == 1 else alike
        for i in alike:
            part = record.parts & talk[i].own
            found[i].may |= part
            if known:
                found[i].must |= part
    for v, parts in zip(talk, found, strict=True):
        parts.blank = said.blank(v)
        if said.mistakable(v):
            parts.may |= v.own
    return found


def is_part(short: str, long: str) -> bool:
    """Return whether the characters of one text are in another, in this order."""
    rest = iter(long)
    return all(c in rest for c in short)


def of(content: str, chars: Iterable[int]) -> str:
    """Return these characters of a text."""
    return "".join(content[i] for i in sorted(chars))
