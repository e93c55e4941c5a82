"""What the cache holds, against what it should hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch

from kv_memory import Memory, RetractionReport, RetractionStatus, Session
from kv_memory.conversation.ledger import Entry
from kv_memory.conversation.messages import Cuts, parse_messages
from kv_memory.engines.base import STEERED
from kv_memory.engines.checkpoints import CheckpointSettings
from kv_memory.positions import merge
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.reply import Usage
from tests.histories.oracle import Hidden, Parts, Said, Version, is_part, of
from tests.lora import steering_engine
from tests.tiny import hybrid_engine

HYBRID = bool(os.environ.get("KV_MEMORY_HISTORIES_HYBRID"))
"""Whether histories are read on a model with recurrent layers."""
ENGINE = hybrid_engine(CheckpointSettings(0.05)) if HYBRID else steering_engine()
FRESH = Memory(ENGINE, heal="never")


def free(session: Session) -> Iterator[Branch]:
    """The branches whose cells are held and at whose end no answer is being generated."""
    return (branch for branch in session.branches if branch.resident and not branch.busy)


def decoded(branch: Branch) -> str:
    return branch.engine.tokenizer.decode([i for i in branch.engine.tokens(branch.seq) if i != STEERED])


def tokens(branch: Branch) -> int:
    """The number of cells that hold a token."""
    return sum(i != STEERED for i in ENGINE.tokens(branch.seq))


def check_cells(session: Session, forbidden: Sequence[str]) -> None:
    """Check that ledger and cells agree, and that no cells hold one of these texts."""
    for branch in free(session):
        assert branch.ledger.positions() == branch.engine.positions(branch.seq)
        assert branch.ledger.token_ids() == branch.engine.tokens(branch.seq)
        text = decoded(branch)
        shown = [word for word in forbidden if word in text]
        assert not shown, f"branch {branch.number} of {session.id} holds {shown}"


def seen(branch: Branch, entry: Entry) -> tuple[str, frozenset[int]]:
    """The content and the numbers of the calls that the cells of a message hold."""
    at = dict(ENGINE.cells(branch.seq))
    runs = [run for run in entry.runs if run.piece.kind == "content"]
    ids = [at[p] for run in runs for p in range(run.start, run.end)]
    return ENGINE.tokenizer.decode(ids), frozenset(run.piece.call for run in entry.runs if run.piece.call is not None)


def check_read(branch: Branch, sent: Sequence[Version], found: Sequence[Hidden], usage: Usage) -> None:
    """Check that a branch holds exactly what may be visible of a conversation that it has just read."""
    entries = branch.ledger.entries
    assert len(entries) >= len(sent)
    left_out, certain = 0, True
    shown: list[Parts] = []
    for number, (version, entry, expected) in enumerate(zip(sent, entries, found, strict=False)):
        content, calls = seen(branch, entry)
        said, own = version.said, version.own
        if version.edit is not None:
            assert content in ("", version.edit), f"message {number}"
            certain = certain and not version.edit and said.role != "assistant"
            shown.append(Parts())
            continue
        most, least = own - expected.must, own - expected.may
        assert is_part(content, of(said.content, most.chars)), (number, content, "holds what is retracted")
        assert is_part(of(said.content, least.chars), content), (number, content, "lacks what is not retracted")
        assert least.calls <= calls <= most.calls, (number, calls, "calls")
        certain = certain and most == least and not expected.blank
        gone = said.whole.calls - calls - version.missing.calls
        left_out += len(of(said.content, own.chars).encode()) - len(content.encode())
        left_out += sum(len(f"look{ {'word': said.calls[i][1]} }") for i in gone)
        shown.append(most)
    if not any(version.edit for version in sent):
        assert usage.left_out == left_out, f"left_out is {usage.left_out}, and {left_out} bytes are in force"
    if certain:
        check_fresh(branch, sent, shown)


def check_fresh(branch: Branch, sent: Sequence[Version], shown: Sequence[Parts]) -> None:
    """Check that the first messages of a branch have the tokens, and the influence, of a conversation read afresh."""
    originals = [parse_messages([Version(version.said).message()])[0] for version in sent]
    cuts = {i: cuts_of(v.said, v.said.whole - kept) for i, (v, kept) in enumerate(zip(sent, shown, strict=True))}
    pieces = FRESH.format.encode(originals, cuts=cuts)
    expected = [i for message in pieces for piece in message for i in piece.ids]
    runs = [run for entry in branch.ledger.entries[: len(sent)] for run in entry.runs]
    at = dict(ENGINE.cells(branch.seq))
    held = [at[p] for run in sorted(runs, key=lambda run: run.start) for p in range(run.start, run.end)]
    assert grouped(held) == grouped(expected), (ENGINE.tokenizer.decode(held), ENGINE.tokenizer.decode(expected))
    if plain(sent, shown):  # another way to the same tokens: a conversation that never had the text
        left = [v.message(v.own - kept) for v, kept in zip(sent, shown, strict=True)]
        never = FRESH.format.encode(parse_messages(left))
        assert grouped(held) == grouped(i for message in never for piece in message for i in piece.ids)
    check_influence(branch)


def grouped(ids: Iterable[int]) -> str:
    """Tokens, a character each, with neighbouring tool results in one group.

    Results between which a message has vanished stay in two groups in the cells.
    """
    return "".join(map(chr, ids)).replace(APART, TOGETHER)


def as_characters(text: str) -> str:
    return "".join(map(chr, ENGINE.tokenizer.encode(text, special=True)[0]))


APART, TOGETHER = (
    as_characters(f"\n</tool_response>{between}\n<tool_response>\n") for between in ("<|im_end|>\n<|im_start|>user", "")
)


_checked: WeakKeyDictionary[Branch, object] = WeakKeyDictionary()
"""What the branches held when they were last compared."""


def check_influence(branch: Branch) -> None:
    """Check that a branch without approximate erasures says what the same tokens say when they are read afresh."""
    if branch.ledger.approximate_from is None and not branch.busy and branch.cells:
        now = (ENGINE.cells(branch.seq), branch.moves, branch.erasures)
        if _checked.get(branch) == now:
            return
        _checked[branch] = now
        fresh = ENGINE.create()
        try:
            ENGINE.prefill(fresh, ENGINE.tokens(branch.seq))
            torch.testing.assert_close(ENGINE.score(branch.seq, [5]), ENGINE.score(fresh, [5]), atol=2e-4, rtol=0)
        finally:
            ENGINE.free(fresh)


def plain(sent: Sequence[Version], shown: Sequence[Parts]) -> bool:
    """Whether the template writes the same around what is left of the messages as around the whole ones."""
    return all(
        kept.calls == version.said.whole.calls
        and (version.said.role != "assistant" or bool(kept.chars) == bool(version.said.content))
        for version, kept in zip(sent, shown, strict=True)
    )


def cuts_of(said: Said, gone: Parts) -> Cuts:
    return Cuts(tuple(merge((i, i + 1) for i in gone.chars)), gone.calls)


def check_report(session: Session, report: RetractionReport, before: dict[int, tuple[bool, int]]) -> None:
    """Check the status of a retraction that has just been made; `before`: branches that were approximate, and cells."""
    waits = any(branch.busy for branch in session.branches)
    if report.status is RetractionStatus.QUEUED:
        assert waits
    if report.status is RetractionStatus.NOOP:
        assert report.tokens_erased == 0
    if report.status is RetractionStatus.EXACT:
        for branch in free(session):
            approximate, cells = before.get(id(branch), (True, 0))
            if not approximate and tokens(branch) != cells:
                assert branch.ledger.approximate_from is None, "said to be exact, and a branch is not"


def state_of(session: Session) -> dict[int, tuple[bool, int]]:
    return {id(b): (b.ledger.approximate_from is not None, tokens(b)) for b in session.branches if b.resident}


def messages_of(talk: Sequence[Version]) -> list[dict[str, Any]]:
    return [version.message() for version in talk]
