"""Questions about an agent's memory in which there are old values of a setting beside the current one: they are erased.

The data is LineageKV. Each memory block is a message of the user, with its number and date, as agent frameworks put
what they remember before a conversation; the question comes after all of them, as it is in the file. A record with two
old values has both erased, and the correction names the blocks by their numbers. Kinds, in turns:

- `plain`: the two to five blocks of a record, in their order, among blocks of other records; some 500 to 1,400 tokens
  in all. In half of the cases (`place` "early") at least 300 tokens of other blocks follow the last old value, in the
  others (`place` "late") fewer do.
- `long`: 52 blocks, as they are in the file.

Cases of one setting share their `conversation`: they differ in wording and order alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from kv_memory.conversation.messages import Cuts, Message
from kv_memory.evaluation.cases import Case, Transcript, says
from kv_memory.evaluation.suites.source import Source, in_turns

SUITE = "memory"
ORIGIN = "LineageKV"
SIZES = (400, 700, 1000)
"""Tokens of the blocks of other records, at least; one is drawn for each case."""
AFTER = 300
"""Tokens of other blocks after the last old value, at least, in cases whose place is "early"."""
SYSTEM = "You are a helpful assistant. The memories that you saved in earlier conversations come first."


@dataclass(frozen=True)
class _Block:
    id: str
    text: str
    about: str
    """The setting, or for one that is known by its slot the category."""

    @classmethod
    def of(cls, block: Mapping[str, Any]) -> _Block:
        facts = block["metadata"]
        about = facts.get("category") or facts.get("memory_key") or ""
        return cls(block["id"], f"({block['timestamp'][:10]}): {block['text']}", about)


def memory(source: Source) -> Iterator[Case]:
    """Yield a case for each record. Raises KVMemoryError where a file is missing."""
    plain = _records(source, "lineagekv_stale_memory.jsonl")
    long = _records(source, "lineagekv_long_context.jsonl")
    return in_turns(_plain(source, plain, _others([*plain, *long])), _long(source, long))


def _records(source: Source, name: str) -> list[dict[str, Any]]:
    return [record for record in source.records(name, ORIGIN) if source.holds(_setting(record))]


def _setting(record: Mapping[str, Any]) -> str:
    return str(record["metadata"].get("memory_key") or record["metadata"]["slot"])


def _others(records: Sequence[Mapping[str, Any]]) -> list[_Block]:
    """Return the blocks that may be put among those of another record: no old values, and each text once."""
    found = (_Block.of(block) for r in records for block in r["context_blocks"] if block["id"] not in r["stale_ids"])
    return list({block.text: block for block in found}.values())


def _plain(source: Source, records: Sequence[Mapping[str, Any]], pool: Sequence[_Block]) -> Iterator[Case]:
    early = source.rng(SUITE).random() < 0.5
    for record in records:
        rng = source.rng(SUITE, record["id"])
        own = [_Block.of(block) for block in record["context_blocks"]]
        others = _fill(source, rng, record, own, pool)
        following = [sum(_length(source, block) for block in others[i:]) for i in range(len(others) + 1)]
        slots = [i for i, tokens in enumerate(following) if (tokens >= AFTER) is early]
        chosen = sorted(rng.choices(slots, k=len(own)))
        blocks = [block for i in range(len(others) + 1) for block in [*_at(i, chosen, own), *others[i : i + 1]]]
        case = _case(source, "plain", record, blocks, "early" if early else "late")
        if source.fits(case):
            yield case
            early = not early


def _at(slot: int, chosen: Sequence[int], own: Sequence[_Block]) -> list[_Block]:
    return [block for place, block in zip(chosen, own, strict=True) if place == slot]


def _long(source: Source, records: Sequence[Mapping[str, Any]]) -> Iterator[Case]:
    for record in records:
        blocks = [_Block.of(block) for block in record["context_blocks"]]
        last = max(i for i, block in enumerate(blocks) if block.id in record["stale_ids"])
        following = sum(_length(source, block) for block in blocks[last + 1 :])
        case = _case(source, "long", record, blocks, "early" if following >= AFTER else "late")
        if source.fits(case):
            yield case


def _fill(
    source: Source, rng: Random, record: Mapping[str, Any], own: Sequence[_Block], pool: Sequence[_Block]
) -> list[_Block]:
    """Return blocks of other records that do not speak of the setting or its values."""
    facts = record["metadata"]
    values = (*_stale(facts), facts.get("target_raw_value", record["gold_answer"]), facts.get("stale_raw_value", ""))
    about = {facts["category"], *(block.about for block in own)}
    wanted, found, tokens = rng.choice(SIZES), [], 0
    for block in rng.sample(pool, len(pool)):
        if tokens >= wanted:
            break
        if block.about not in about and not says(block.text, values):
            found.append(block)
            tokens += _length(source, block)
    return found


def _case(source: Source, kind: str, record: Mapping[str, Any], blocks: Sequence[_Block], place: str) -> Case:
    facts = record["metadata"]
    numbers = {block.id: f"memory {number}" for number, block in enumerate(blocks, 1)}
    stale = [numbers[block] for block in record["stale_ids"]]
    read = Transcript(
        source.form,
        [
            {"role": "system", "content": SYSTEM},
            *({"role": "user", "id": numbers[b.id], "content": f"{numbers[b.id].title()} {b.text}"} for b in blocks),
            {"role": "assistant", "content": "I have read my memories. What can I do for you?"},
        ],
    )
    return read.question(
        kind,
        stale,
        record["query"],
        named=f"what {' and '.join(stale)} say" + ("s" if len(stale) == 1 else ""),
        answer=record["gold_answer"],
        aliases=(),
        wrong=_stale(facts),
        suite=SUITE,
        name=f"{kind}/{record['id']}",
        conversation=_setting(record),
        groups={"kind": kind, "place": place},
    )


def _stale(facts: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(facts.get("stale_values") or [facts["stale_value"]])


def _length(source: Source, block: _Block) -> int:
    return source.form.tokens_in(Message("user", block.text), Cuts(((0, len(block.text)),)))
