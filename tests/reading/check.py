"""What the cache holds of a conversation, against what its template writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from kv_memory import Memory, Session
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.errors import ConversationError
from kv_memory.testing.chat import tiny_model, tiny_tokenizer
from tests.reading.oracle import Oracle, Tools, lost, variants, wire
from tests.reading.shapes import Messages, Shape

_MARKS = re.compile(r"<[|\uff5c/]?[\w\u2581:|\uff5c]+[|\uff5c]?>|\[/?[A-Z_]{3,}\]|◁/?\w+▷|\]~!?b[\[\]]|\[e~\[")
"""What special tokens look like in the text of a template."""
RIGHT, MAPPED, REFUSED = "right", "mapped", "refused"
"""The cells are what the template writes; they are what it writes of a conversation in which what it would lose or
refuse is told in another way; both refuse."""


def tokenizer_with(template: str, base: PreTrainedTokenizerBase | None = None) -> Any:
    """Return a tokenizer with a template, for which everything in it that looks like a special token is one."""
    tokenizer: Any = tiny_tokenizer() if base is None else base
    tokenizer.chat_template = template
    known = tokenizer.get_vocab()
    marks = sorted({mark for mark in _MARKS.findall(template) if mark not in known})
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(mark, special=True, normalized=False) for mark in marks]}
    )
    return tokenizer


def engine_with(tokenizer: Any) -> TransformersEngine:
    """Return a random model that reads with this tokenizer."""
    config = tiny_model(0, 16_384).config
    config.num_hidden_layers, config.vocab_size = 1, len(tokenizer)
    model = Qwen3ForCausalLM(config).eval()
    return TransformersEngine(model, tokenizer, name="tiny")


@dataclass
class DifferenceError(Exception):
    """The cells are not what they should be."""

    where: str
    cells: str
    wanted: str
    in_text: bool = True
    """Whether the texts differ; else only the tokens do."""

    def __str__(self) -> str:
        return f"{self.where}:\n{self.cells!r}\nis not\n{self.wanted!r}"


class Check:
    """One template with one vocabulary."""

    def __init__(self, engine: TransformersEngine, *, by_bytes: bool = True) -> None:
        """Check with this engine; `by_bytes`: each token is a byte."""
        self._engine = engine
        self._hf: Any = engine.tokenizer.hf  # type: ignore[attr-defined]
        self._oracle = Oracle(engine.tokenizer)
        self._by_bytes = by_bytes

    def shape(self, shape: Shape) -> str:
        """Check all that a shape goes through; return RIGHT, MAPPED or REFUSED. Raises DifferenceError."""
        found = self.whole(shape)
        if found is not REFUSED:
            self.growing(shape)
            self.edited(shape)
            self.retracted(shape)
        return found

    def whole(self, shape: Shape) -> str:
        """Check a conversation that is read at once, and its spans."""
        session = self._session()
        found = self._read(session, shape.messages, shape.tools, "read at once")
        if found is not REFUSED:
            self._spans(session, shape.messages)
        return found

    def growing(self, shape: Shape) -> None:
        """Check a conversation that is read message by message."""
        session = self._session()
        for count in range(1, len(shape.messages) + 1):
            self._read(session, shape.messages[:count], shape.tools, f"the first {count}")

    def edited(self, shape: Shape) -> None:
        """Check a conversation from whose history each message vanishes."""
        for gone in range(len(shape.messages)):
            session = self._session()
            session.prefill(wire(shape.messages), shape.tools)
            left = [message for i, message in enumerate(shape.messages) if i != gone]
            self._read(session, left, shape.tools, f"without message {gone}")

    def retracted(self, shape: Shape) -> None:
        """Check that each message can be retracted: its text is gone, and all else is as it was."""
        for number, message in enumerate(shape.messages):
            session = self._session()
            session.prefill(wire(shape.messages), shape.tools)
            before = self._cells(session)
            session.retract(next(s.id for s in session.spans() if s.message == number), eraser="recompute")
            after = self._cells(session)
            for part in _texts(message):
                wrong = [v for v in variants(part) if v in after]
                if wrong:
                    raise DifferenceError(f"message {number} is retracted", after, before)
            if not _is_part(after, before):
                raise DifferenceError(f"message {number} is retracted, something new came", after, before)
            for other in (m for m in shape.messages if m is not message):
                for part in _texts(other):
                    written = [v for v in variants(part) if v in before]
                    if written and not any(v in after for v in written):
                        raise DifferenceError(f"message {number} is retracted, {part!r} is lost", after, before)

    def _session(self) -> Session:
        memory = Memory(self._engine, heal="never")
        return memory.session("s")

    def _cells(self, session: Session) -> str:
        branch = session.branches.latest
        assert branch is not None
        return str(self._hf.decode(branch.engine.tokens(branch.seq), skip_special_tokens=False))

    def _read(self, session: Session, messages: Messages, tools: Tools, where: str) -> str:
        wanted, found = self._oracle.whole(messages, tools), RIGHT
        if wanted is None:
            found = MAPPED
            try:
                wanted = self._oracle.mapped(messages, tools)
            except ConversationError as refusal:
                self._refuses(session, messages, tools, where, str(refusal))
                return REFUSED
            if lost(wanted, messages, tools):
                self._refuses(session, messages, tools, where, "leaves message")
                return REFUSED
        session.prefill(wire(messages), tools)
        branch = session.branches.latest
        assert branch is not None
        ids = branch.engine.tokens(branch.seq)
        right = self._hf(wanted, add_special_tokens=False)["input_ids"]
        cells, text = (self._hf.decode(i, skip_special_tokens=False) for i in (ids, right))
        tags = any("</think>" in message["content"] for message in messages)  # no text of a message is structure
        if tags and "kvm" not in cells and cells.replace(" ", "") == text.replace(" ", ""):
            return found  # nor is there the space that some tokenizers put after a special token
        if "kvm" in cells or cells not in (text, self._otherwise(messages, tools)):
            raise DifferenceError(where, cells, text)
        if cells != text:
            return MAPPED
        if ids != right and not tags:
            at = next(i for i, (a, b) in enumerate(zip([*ids, -1], [*right, -1], strict=False)) if a != b)
            a, b = (self._hf.convert_ids_to_tokens(i[max(0, at - 3) : at + 5]) for i in (ids, right))
            raise DifferenceError(f"{where}, tokens", str(a), str(b), in_text=False)
        return found

    def _otherwise(self, messages: Messages, tools: Tools) -> str:
        """Return what the template writes if its traits are respected, also where it takes what it does not know."""
        try:
            text = self._oracle.mapped(messages, tools)
        except ConversationError:
            return ""
        return str(self._hf.decode(self._hf(text, add_special_tokens=False)["input_ids"], skip_special_tokens=False))

    def _refuses(self, session: Session, messages: Messages, tools: Tools, where: str, refusal: str) -> None:
        try:
            session.prefill(wire(messages), tools)
        except ConversationError as error:
            if refusal not in str(error):
                raise DifferenceError(where, str(error), refusal) from None
            return
        raise DifferenceError(where, self._cells(session), f"refused: {refusal}")

    def _spans(self, session: Session, messages: Messages) -> None:
        branch = session.branches.latest
        assert branch is not None
        at = dict(branch.engine.cells(branch.seq))
        for message, entry in zip(messages, branch.ledger.entries, strict=True):
            runs = [run for run in entry.runs if run.piece.kind == "content"]
            ids = [at[p] for run in runs for p in range(run.start, run.end)]
            said = self._hf.decode(ids, skip_special_tokens=False)
            said = said if self._by_bytes else said.removeprefix(" ")  # often one token with the word
            content = message["content"]
            # templates write tags around thoughts themselves, and leave old thoughts out
            if not any(v.split("</think>")[-1].strip() in said and _is_part(said, v) for v in variants(content)):
                raise DifferenceError("the span", said, content)
            calls = {run.piece.call for run in entry.runs if run.piece.call is not None}
            if calls != set(range(len(message.get("tool_calls", ())))):
                raise DifferenceError("the spans of the calls", str(calls), str(message))


def _is_part(short: str, long: str) -> bool:
    rest = iter(long)
    return all(c in rest for c in short)


def _texts(message: dict[str, Any]) -> Iterator[str]:
    """Yield the texts of a message by which it is told from the others."""
    if message["content"]:
        yield message["content"].split("</think>")[-1].strip()
    for call in message.get("tool_calls", ()):
        yield from (str(v) for v in call["function"]["arguments"].values() if isinstance(v, str) or v == 736251)
    if message.get("reasoning_content"):
        yield message["reasoning_content"]
