"""The things that a history works on: a memory, its sessions as the oracle knows them, and the messages said so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kv_memory import Memory, RetractionReport, Session
from kv_memory.conversation import originals
from kv_memory.conversation.messages import parse_messages
from tests.histories.checks import ENGINE
from tests.histories.oracle import Everything, Hidden, Parts, Record, Said, Text, Version, hidden, place_of

LETTERS = [ENGINE.tokenizer.encode(c, special=False)[0][0] for c in "abcdefghijklmnop"]


def letters(ids: Sequence[int], logits: Any) -> Any:
    """A mask under which answers are letters, so that their text has the same tokens when it is read."""
    left = logits.clone()
    left[:] = float("-inf")
    left[LETTERS] = logits[LETTERS]
    return left


@dataclass(eq=False)
class Stream:
    """An answer that is being generated."""

    stream: Any
    items: Any
    talk: list[Version]


@dataclass(eq=False, repr=False)
class Known:
    """A session as the oracle knows it."""

    name: str
    talks: list[list[Version]] = field(default_factory=list)
    records: dict[str, list[Record]] = field(default_factory=dict)
    """Records in force, by the retraction that asked for them."""
    reports: list[RetractionReport] = field(default_factory=list)
    """All its reports, those that were undone too."""
    latest: list[Version] = field(default_factory=list)
    """Conversation of the branch that was used last."""
    streams: list[Stream] = field(default_factory=list)
    waiting: list[Callable[[], object]] = field(default_factory=list)
    """What the oracle notes of the deferred actions, once they have run."""
    elsewhere: set[str] = field(default_factory=set)
    """Retractions of another process: each cache here is checked for them before it answers, not at once."""

    def __repr__(self) -> str:
        return f"session {self.name!r}"

    @property
    def in_force(self) -> list[Record]:
        return [record for records in self.records.values() for record in records]

    def catch_up(self) -> None:
        for action in self.waiting:
            action()


class Timed(Memory):
    """A memory that heals when it is told to: in the thread of its own, but at no time that depends on the clock."""

    idle = False

    def _answering(self) -> bool:
        return not self.idle

    def heal_in_idle_time(self) -> None:
        """Heal what is to be healed in idle time, beside the answers that are being generated."""
        self.idle = True
        assert self.healer.wait(60), "healing does not end"
        self.idle = False


class World:
    """One memory over the shared engine, and what was ever said to it."""

    def __init__(self, heal: Any, cache_tokens: int | None, audited: bool) -> None:
        self.folder = TemporaryDirectory()
        self.options: dict[str, Any] = {"heal": heal, "cache_tokens": cache_tokens}
        if audited:
            self.options["audit"] = Path(self.folder.name) / "audit.sqlite"
        self.memory = Timed(ENGINE, **self.options)
        self.other: Memory | None = None
        """Memory of another process with the same audit log."""
        self.known: dict[str, Known] = {}
        self.said = Everything()
        self.streams: list[Any] = []
        """All streams that were ever begun."""
        self._left: list[str] = []
        """What is left of messages, and is now said by messages in their own right."""
        self._digests: dict[tuple[str, Text], str] = {}
        self._count = 0

    @property
    def audited(self) -> bool:
        return "audit" in self.options

    def session(self, known: Known) -> Session:
        return self.memory.session(known.name)

    # Messages

    def number(self) -> int:
        self._count += 1
        return self._count

    def word(self, plain: bool = True) -> str:
        number = self.number()
        return f"k{number:04}z" if plain else f"é{number:04}🙂"

    def new(self, role: str, texts: Sequence[tuple[str, str | None]], **more: Any) -> Version:
        """A message whose words are its texts."""
        words, at = [], 0
        for text, _ in texts:
            words.append((at, at + len(text)))
            at += len(text)
        said = Said(self.number(), role, tuple(texts), tuple(words), **more)
        alike = self.said.by_text.setdefault(said.text, [])
        alike.append(said)
        return Version(said)

    # Records

    def hidden(self, known: Known, talk: Sequence[Version]) -> list[Hidden]:
        return hidden(talk, known.in_force, self.said)

    def text_of(self, digest: str) -> Text | None:
        """The text that a digest in a report stands for; None where it is no message of a history."""
        key = self.memory.originals.key
        name = key.id if key is not None else ""
        for text, alike in self.said.by_text.items():
            if (name, text) not in self._digests:
                (message,) = parse_messages([Version(alike[0]).message()])
                self._digests[name, text] = str(self.memory.originals.sealed(message).identity)
            if self._digests[name, text] == digest:
                return text
        return None

    def records_of(
        self,
        report: RetractionReport,
        named: Said | None,
        talk: Sequence[Version],
        dependents: Sequence[Said] | None = None,
    ) -> list[Record]:
        """The records that a report says to be in force; `named` is the message of this conversation that was named.

        `dependents`: turns of it that a cascade took along, in the order of the report, as far as they are known. Their
        records come after those of what was named, and may have the very same text: each is of another message.
        """
        records = []
        told = [] if named is None else [named, *(dependents or [])]
        numbers = {version.said.uid: number for number, version in enumerate(talk)}
        for redaction in report.redactions:
            text = self.text_of(redaction.digest)
            if text is None:
                assert not redaction.chars or redaction.role != "system", "a report of nothing that was said"
                continue  # an editor's placeholder, which a cascade may take along
            parts = Parts(frozenset(i for a, b in redaction.chars for i in range(a, b)), redaction.calls)
            said = next((said for said in told if said.text == text and said.uid in numbers), None)
            place = None if said is None else place_of(talk, numbers[said.uid])
            if said is not None and dependents is not None:
                told.remove(said)
            records.append(Record(text, (redaction.message_id, redaction.tool_call_id), parts, place))
        return records

    def enforce(self, known: Known, retraction: str, records: Sequence[Record]) -> None:
        """Put records in force."""
        known.records[retraction] = [*known.records.get(retraction, []), *records]
        for record in records:
            self.said.note(record.text, record.parts)

    def withdraw(self, known: Known, retraction: str, talk: Sequence[Version], number: int) -> None:
        """Take what a retraction names of one message of a conversation out of force, and not of others like it."""
        said = [replace(version, missing=Parts()) if i == number else version for i, version in enumerate(talk)]
        left = []
        for record in known.records.pop(retraction, []):
            found = hidden(said, [replace(record, sure=True)], self.said)[number]
            if not found.must:
                left.append(replace(record, sure=record.sure and not found.may))
        if left:
            known.records[retraction] = left

    def forbidden(self, known: Known) -> list[str]:
        """The words that no cells of a session may hold: of messages that nobody else said too."""
        words = []
        here = [records for name, records in known.records.items() if name not in known.elsewhere]
        for record in (record for records in here for record in records):
            alike = self.said.by_text[record.text]
            if len({said.ids for said in alike}) == 1:
                said = alike[0]
                words += [said.content[a:b] for a, b in said.words if record.parts.chars >= set(range(a, b))]
                words += [said.calls[i][1] for i in record.parts.calls]
        words = [word for word in words if len(word) >= 6 and not word.isalpha()]
        return [word for word in words if not any(word in text for text in self._left)]

    def copy(self, known: Known, name: str) -> Known:
        """A session that begins as a copy of another."""
        records = {f"from {known.name}": list(dict.fromkeys(known.in_force))}
        return Known(name, [list(talk) for talk in known.talks], records, latest=list(known.latest))

    # Ends

    def forget(self, known: Known) -> None:
        """A session that was deleted, with no log: what its histories hold are messages in their own right."""
        known.records, known.reports, known.waiting, known.elsewhere = {}, [], [], set()
        for talk in known.talks:
            talk[:] = [self.alone(version) for version in talk]

    def alone(self, version: Version) -> Version:
        """What is left of a message, as a message of which nobody knows that it had more."""
        said, own, texts, at = version.said, version.own, [], 0
        if not version.missing or version.edit is not None:
            return replace(version, missing=Parts())
        for text, name in said.parts:
            texts.append(("".join(c for i, c in enumerate(text, at) if i in own.chars), name))
            at += len(text)
        calls = tuple(call for i, call in enumerate(said.calls) if i in own.calls)
        left = self.new(said.role, texts, id=said.id, call_id=said.call_id, calls=calls)
        self._left += [left.said.content, *(word for _, word in calls)]
        return left

    def restart(self) -> None:
        """Another process: nothing is in the cache, and the log has what was retracted."""
        self.close()
        self.forget_originals()
        self.memory = Timed(ENGINE, **self.options)
        for known in self.known.values():
            known.catch_up()
            known.latest, known.streams, known.waiting, known.elsewhere = [], [], [], set()

    def another_process(self) -> Memory:
        """Return the memory of another process, which knows of this one what the log says."""
        if self.other is None:
            self.other = Memory(ENGINE, **self.options | {"heal": "never"})
            self.other.originals = originals.Originals(self.memory.originals.key)
        return self.other

    def forget_originals(self) -> None:
        """Forget what this process has learned of messages beyond what the log says."""
        key = self.memory.originals.key
        if key is not None:
            originals._COLLECTIONS.pop(key.id, None)

    def close(self) -> None:
        for stream in self.streams:
            stream.close()
        self.memory.healer.stop()
        for memory in filter(None, (self.memory, self.other)):
            for name in memory.sessions():
                memory.delete_session(name)
            if memory.audit is not None:
                memory.audit.close()
        self.other = None

    def end(self) -> None:
        self.close()
        self.forget_originals()
        self.folder.cleanup()


def tombstoned(talk: Sequence[Version], records: Sequence[Record], said: Everything) -> list[Version] | None:
    """The versions that are left of a conversation without records; None where the rules leave it open."""
    found = hidden(talk, records, said)
    if any(parts.may != parts.must for parts in found) or any(version.edit is not None for version in talk):
        return None
    return [replace(v, missing=v.missing | parts.must) for v, parts in zip(talk, found, strict=True)]
