"""Originals: messages as they were first read, known by digests of their parts, and the versions that are left of them.

A tombstone is a version of its original: the original less what one or several retractions name. Any version is
recognised, whoever made it and when, and put into the coordinates of the original: what it lacks is filled up with NUL
characters. So a retraction means the same characters whatever version of the message a history holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from kv_memory.conversation.messages import Cuts, DocumentPart, Message, ToolCall, ids_differ
from kv_memory.conversation.redactions import Fingerprints, Redaction, by_digest
from kv_memory.errors import KVMemoryError
from kv_memory.keys import Key
from kv_memory.positions import Interval, merge, subtract

_ANY = ""
"""Digest of a part whose text was gone when a later retraction split it: any text of that length is taken for it."""


class Original:
    """A message as it was first read, of which something was retracted at some time."""

    def __init__(self, redaction: Redaction) -> None:
        self.role, self.digest = redaction.role, redaction.digest
        self.ids: set[tuple[str | None, str | None]] = set()
        self._after: set[str | None] = set()
        """Digests of the messages before it."""
        self.length = self.calls = 0
        self.documents: tuple[tuple[str, int, int], ...] = ()
        self.call_ids: tuple[str | None, ...] = ()
        self._texts: dict[Interval, str] = {}
        self._call_texts: dict[int, str] = {}
        self._cut: list[Interval] = []
        """Characters that some retraction named, also one that was undone: its tombstones may be somewhere."""
        self._edges: set[int] = set()
        """Where a retraction began or ended."""
        self._cut_calls: set[int] = set()
        self._complete = False
        """Whether the digests of all parts are known."""

    def learn(self, redaction: Redaction) -> None:
        """Note what a redaction says of the message."""
        known = redaction.fingerprints
        self.ids.add((redaction.message_id, redaction.tool_call_id))
        self._after.add(redaction.after)
        self.length, self.calls = max(self.length, known.length), max(self.calls, known.calls)
        self.documents = self.documents or known.documents
        self.call_ids = self.call_ids or known.call_ids
        self._texts |= {(start, end): digest for start, end, digest in known.texts}
        self._call_texts |= dict(known.call_texts)
        self._cut = merge([*self._cut, *redaction.chars])
        self._edges |= {bound for interval in redaction.chars for bound in interval}
        self._cut_calls |= redaction.calls
        self._complete = False

    def read(self, message: Message, key: Key | None) -> None:
        """Note the digests of the parts of which none was known, from the whole message."""
        if not self._complete:
            self.length, self.calls, self._complete = len(message.content), len(message.tool_calls), True
            for start, end in pairwise(self.bounds()):
                if (start, end) not in self._texts:
                    self._texts[start, end] = digest_of_text(message.content[start:end], key)
            self._call_texts = dict(enumerate(digest_of_call(call, key) for call in message.tool_calls))

    def bounds(self, more: Iterable[Interval] = ()) -> list[int]:
        """Return where parts of the content begin or end, ascending; `more` are parts that are to be known too."""
        inside = self._edges | {bound for part in (*self._texts, *more) for bound in part}
        return sorted({0, self.length, *(bound for bound in inside if 0 <= bound <= self.length)})

    def texts(self) -> dict[Interval, str]:
        """Return the digests that are known of parts of the content."""
        return dict(self._texts)

    def call_texts(self) -> dict[int, str]:
        """Return the digests that are known of calls, by their numbers."""
        return dict(self._call_texts)

    def may_be(self, message: Message, before: str) -> bool:
        """Return whether a message may be a version of this one, by its role, ids and length.

        `before`: digest of the message before it. Nothing else tells what is left of a message without ids where
        nothing is left.
        """
        if not message.content and not message.tool_calls and not self._named(message) and before not in self._after:
            return False
        left = self.length - sum(end - start for start, end in self._cut)
        return (
            message.role == self.role
            and (left <= len(message.content) <= self.length or self.emptied_in(message))
            and self.calls - len(self._cut_calls) <= len(message.tool_calls) <= self.calls
            and self.fits_ids_of(message)
        )

    def fits_ids_of(self, message: Message) -> bool:
        """Return whether no id shows that the message is another one."""
        return any(not ids_differ(a, message.id) and not ids_differ(b, message.tool_call_id) for a, b in self.ids)

    def emptied_in(self, message: Message) -> bool:
        """Return whether an editor of the history has taken the content away, or put a placeholder there."""
        return (not message.content or message.placeholder) and self._named(message)

    def _named(self, message: Message) -> bool:
        """Return whether the message has an id of this one."""
        named = {name for ids in self.ids for name in ids if name is not None}
        return bool(named & {message.id, message.tool_call_id})

    def missing_in(self, message: Message, key: Key | None) -> tuple[Cuts, Cuts] | None:
        """Return what a version of the message lacks, and which parts of it are guessed; None where it is none."""
        emptied = self.emptied_in(message)
        if message.placeholder and not emptied:
            return None
        found = ([(0, self.length)], []) if emptied else self._missing_chars(message.content, key, self._named(message))
        calls = self._missing_calls([digest_of_call(call, key) for call in message.tool_calls])
        return None if found is None or calls is None else (Cuts(tuple(found[0]), calls), Cuts(tuple(found[1])))

    def _missing_chars(self, text: str, key: Key | None, guess: bool) -> tuple[list[Interval], list[Interval]] | None:
        """Find a way through the parts of the content, each there or cut, that spells the text.

        Of several, the one with the fewest characters of parts that may be any text; they are there only with `guess`.
        Returns what is cut on it, and these parts.
        """
        came: dict[int, dict[int, tuple[int, int, int, bool]]] = {0: {0: (0, 0, 0, True)}}
        steps = self._steps()
        digests: dict[Interval, str] = {}
        for at in sorted(steps):
            for place, (guessed, *_) in came.get(at, {}).items():
                for end, digest in steps[at]:
                    length = 0 if digest is None else end - at
                    rest = len(text) - place - length
                    if not 0 <= rest <= self.length - end:
                        continue
                    if digest == _ANY and not guess:
                        continue
                    if digest:
                        part = (place, place + length)
                        if part not in digests:
                            digests[part] = digest_of_text(text[place : place + length], key)
                        if digests[part] != digest:
                            continue
                    way = (guessed + length * (digest == _ANY), at, place, digest is not None)
                    ways = came.setdefault(end, {})
                    ways[place + length] = min(way, ways.get(place + length, way))
        at, place = self.length, len(text)
        missing: list[Interval] = []
        guesses: list[Interval] = []
        if place not in came.get(at, {}):
            return None
        while at > 0:
            guessed, start, before, kept = came[at][place]
            missing += [] if kept else [(start, at)]
            guesses += [(start, at)] if guessed > came[start][before][0] else []
            at, place = start, before
        return merge(missing), merge(guesses)

    def _steps(self) -> dict[int, list[tuple[int, str | None]]]:
        """Return, for each place, the parts that begin there: where each ends, and its digest; None where it is cut."""
        steps: dict[int, list[tuple[int, str | None]]] = {}
        for (start, end), digest in sorted(self._texts.items(), key=lambda item: -item[0][1]):
            steps.setdefault(start, []).append((end, digest))
        for part in pairwise(self.bounds()):
            found = steps.setdefault(part[0], [])
            if part not in self._texts:
                found.append((part[1], _ANY))
            if not subtract([part], self._cut):
                found.append((part[1], None))
        return steps

    def _missing_calls(self, digests: Sequence[str]) -> frozenset[int] | None:
        """Return the numbers of the calls that a version lacks whose calls have these digests."""
        found: dict[int, frozenset[int]] = {0: frozenset()}  # by the number of calls of the version that are placed
        for number in range(self.calls):
            known = self._call_texts.get(number)
            after: dict[int, frozenset[int]] = {}
            for placed, missing in found.items():
                if placed < len(digests) and known in (None, digests[placed]):
                    after[placed + 1] = missing
                if number in self._cut_calls:
                    after.setdefault(placed, missing | {number})
            found = after
        return found.get(len(digests))


class Originals:
    """The originals of all messages of which something was ever retracted under one key."""

    def __init__(self, key: Key | None) -> None:
        """Create an empty collection; without a `key` digests are plain ones."""
        self.key = key
        self._known: dict[str, Original] = {}
        self._by_id: dict[str, dict[str, Original]] = {}
        self._without_ids: dict[str, dict[str, Original]] = {}
        """Originals of which nobody knew an id, by role."""

    @classmethod
    def of(cls, key: Key) -> Originals:
        """Return the originals under a key: the same for the same key, in this process."""
        return _COLLECTIONS.setdefault(key.id, cls(key))

    @classmethod
    def named(cls, key: str) -> Originals:
        """Return the originals under the key with this id. Raises KVMemoryError where this process has no such key."""
        if not key:
            return cls(None)
        if key not in _COLLECTIONS:
            raise KVMemoryError(
                "The report comes from another process whose memory had no audit log, so the texts that it means cannot"
                " be found; open the memory with an audit log, or retract again here."
            )
        return _COLLECTIONS[key]

    def learn(self, redactions: Iterable[Redaction]) -> None:
        """Note what redactions say of the messages that they are of."""
        for redaction in redactions:
            original = self._known.setdefault(redaction.digest, Original(redaction))
            original.learn(redaction)
            ids = [name for name in (redaction.message_id, redaction.tool_call_id) if name is not None]
            for name in ids:
                self._by_id.setdefault(name, {})[original.digest] = original
            if not ids:
                self._without_ids.setdefault(original.role, {})[original.digest] = original

    def digests(self) -> Container[str]:
        """Return the digests of all originals."""
        return self._known

    def sealed(self, message: Message) -> Message:
        """Return the message under its keyed digest, as one that is no version of another."""
        return replace(message, identity=self.key.seal(message.digest()) if self.key else message.digest())

    def identify(
        self,
        messages: Iterable[Message],
        here: Container[str] | None = None,
        read: Callable[[], Container[str]] = frozenset,
    ) -> list[Message]:
        """Return the messages under the digests of their originals, and in their coordinates.

        `here`: digests of the originals that count, those of which something was ever retracted in the session; by
        default all. `read` returns digests of messages that the session has read as they are: what is one of them is
        not guessed to be a version of another.
        """
        found: list[Message] = []
        for message in messages:
            before = found[-1].identity if found else ""
            found.append(self._identified(message, before, here, read))
        return found

    def _identified(
        self, message: Message, before: str, here: Container[str] | None, read: Callable[[], Container[str]]
    ) -> Message:
        sealed = self.sealed(message)
        known = self._known.get(sealed.identity)
        if known is not None:
            known.read(message, self.key)
            if (here is None or known.digest in here) and known.fits_ids_of(message):
                return sealed
        for original in self._candidates(message):
            if (here is None or original.digest in here) and original.may_be(message, before):
                found = original.missing_in(message, self.key)
                if found is not None and found[0] and not (found[1] and sealed.identity in read()):
                    return _filled_up(message, original, *found)
        return sealed

    def _candidates(self, message: Message) -> Iterator[Original]:
        """Yield the originals whose version this may be, those with one of its ids first."""
        found: dict[str, Original] = {}
        for name in (message.id, message.tool_call_id):
            found |= self._by_id.get(name, {}) if name is not None else {}
        found |= self._without_ids.get(message.role, {})
        if message.id is None and message.tool_call_id is None:
            found |= self._known
        return iter(found.values())

    def fingerprinted(
        self, made: Sequence[tuple[Redaction, Message, Cuts]], beside: Iterable[Redaction] = ()
    ) -> list[Redaction]:
        """Return new redactions under the key, with the digests of the parts into which they split their messages.

        Each comes with its message, in the coordinates of the original, and with what of that text is gone already.
        `beside`: redactions that will be kept together with these. The digests that they hold are not repeated; others
        are, also when they are known in this process: in another one these redactions may be all that is known.
        """
        held = {digest: _parts_in(group) for digest, group in by_digest(list(beside)).items()}
        parts = {
            digest: [interval for redaction in group for interval in redaction.chars]
            for digest, group in by_digest([redaction for redaction, _, _ in made]).items()
        }
        described: set[str] = set()
        result = []
        for redaction, message, gone in made:
            first = redaction.digest not in described
            described.add(redaction.digest)
            more = parts[redaction.digest] if first else None
            known = self._fingerprints(redaction, message, gone, more, held.get(redaction.digest, set()))
            update = {"fingerprints": known, "key": self.key.id if self.key else ""}
            result.append(redaction.model_copy(update=update))
        return result

    def _fingerprints(
        self,
        redaction: Redaction,
        message: Message,
        gone: Cuts,
        more: Sequence[Interval] | None,
        held: Container[Interval],
    ) -> Fingerprints:
        length, calls = len(message.content), len(message.tool_calls)
        places = tuple((document.id, document.start, document.end) for document in message.documents)
        if more is None:  # another redaction of the same retraction has the digests
            return Fingerprints(length=length, calls=calls)
        original = self._known.get(redaction.digest) or Original(redaction)
        original.length = length
        texts = original.texts()
        for start, end in pairwise(original.bounds(more)):
            if (start, end) not in texts and subtract([(start, end)], gone.chars) == [(start, end)]:
                texts[start, end] = digest_of_text(message.content[start:end], self.key)
        call_texts = original.call_texts() | {
            number: digest_of_call(call, self.key)
            for number, call in enumerate(message.tool_calls)
            if number not in gone.calls
        }
        return Fingerprints(
            length=length,
            calls=calls,
            texts=_as_texts({part: digest for part, digest in texts.items() if part not in held}),
            call_texts=tuple(sorted(call_texts.items())),
            call_ids=tuple(call.id for call in message.tool_calls),
            documents=places,
        )


def _parts_in(redactions: Iterable[Redaction]) -> set[Interval]:
    """Return the parts of which redactions hold the digest."""
    return {(start, end) for redaction in redactions for start, end, _ in redaction.fingerprints.texts}


def _as_texts(digests: dict[Interval, str]) -> tuple[tuple[int, int, str], ...]:
    return tuple((start, end, digest) for (start, end), digest in sorted(digests.items()))


_COLLECTIONS: dict[str, Originals] = {}
"""Originals by the id of their key: a report finds those of the memory that made it."""


def digest_of_text(text: str, key: Key | None) -> str:
    """Return the digest of a part of a message's content."""
    return (key or _PLAIN).hash("part", text)


def digest_of_call(call: ToolCall, key: Key | None) -> str:
    """Return the digest of a tool call; its id does not count."""
    return digest_of_text(json.dumps([call.name, call.arguments], sort_keys=True), key)


_PLAIN = Key(b"")
"""The key of parts of conversations outside a memory; it hides nothing."""


def _filled_up(version: Message, original: Original, missing: Cuts, guessed: Cuts) -> Message:
    """Return a version of a message in the coordinates of its original."""
    content, calls, at = "", list(version.tool_calls), 0
    said = "" if version.placeholder else version.content
    for start, end in missing.chars:
        kept = start - len(content)
        content += said[at : at + kept] + "\0" * (end - start)
        at += kept
    for number in sorted(missing.calls):
        calls.insert(number, ToolCall(original.call_ids[number] if original.call_ids else None, "", {}))
    return replace(
        version,
        content=content + said[at:],
        tool_calls=tuple(calls),
        documents=_placed(version.documents, original.documents, missing.chars),
        placeholder=False,
        identity=original.digest,
        missing=missing,
        guessed=guessed,
    )


def _placed(
    documents: Sequence[DocumentPart], known: Sequence[tuple[str, int, int]], missing: Sequence[Interval]
) -> tuple[DocumentPart, ...]:
    """Return the documents of a version where they are in the original; an empty one of which that is not known is what
    is missing at its place."""
    places: dict[str, list[Interval]] = {}
    for name, start, end in known:
        places.setdefault(name, []).append((start, end))
    found = []
    for document in documents:
        empty, left = document.end == document.start, places.get(document.id)
        start = _offset(document.start, missing, past=not empty)
        start, end = left.pop(0) if left else (start, _offset(document.end, missing, past=empty))
        found.append(replace(document, start=start, end=end))
    return tuple(found)


def _offset(at: int, missing: Sequence[Interval], *, past: bool) -> int:
    """Return a place in a version's text as one in the original; `past`: after what is missing there, not before."""
    for start, end in missing:
        if start > at or (start == at and not past):
            break
        at += end - start
    return at
