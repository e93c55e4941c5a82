"""The suite of an agent's memory with old values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kv_memory.errors import KVMemoryError
from kv_memory.evaluation.suites.memory import AFTER, memory
from tests.evaluation.suites import erased, first, real, source, text, write
from tests.tiny import STRICT

PLAIN, LONG = "lineagekv_stale_memory.jsonl", "lineagekv_long_context.jsonl"
SETTINGS = {"travel": "airport", "support": "tier", "writing": "tone", "calendar": "room"}


def block(name: str, said: str, **facts: Any) -> dict[str, Any]:
    return {"id": name, "timestamp": "2024-01-10T09:00:00+00:00", "text": said, "metadata": facts}


def record(category: str, count: int, old: int = 1) -> dict[str, Any]:
    """A record with the current value, old ones, and further blocks up to this many."""
    key, new = SETTINGS[category], f"new-{SETTINGS[category]}"
    stale = [f"old{i}-{key}" for i in range(old)]
    own = [block(value, f"The {key} was {value}.", category=category, value=value) for value in stale]
    own.append(block(new, f"The {key} is {new}.", category=category, value=new))
    others = [
        block(f"{key}-note-{i}", f"Note {i} of {key}: of no use. {'More of it. ' * 6}", memory_key=f"{key}.note.{i}")
        for i in range(count - len(own))
    ]
    facts = {"category": category, "memory_key": key, "stale_value": stale[0]}
    return {
        "id": f"{key}-{count}",
        "context_blocks": [*others[:1], *own, *others[1:]],
        "query": f"What is the current {key}? Answer with only the value.",
        "gold_answer": new,
        "stale_ids": stale,
        "metadata": facts | ({"stale_values": stale} if old > 1 else {}),
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    plain = [record(category, 4, old) for category, old in zip(SETTINGS, (1, 2, 1, 1), strict=True)]
    write(tmp_path, PLAIN, plain)
    write(tmp_path, LONG, [record("travel", 12), record("support", 12)])
    return tmp_path


def test_kinds_come_in_turns_and_each_record_once(data: Path) -> None:
    cases = list(memory(source(data)))
    assert [case.kind for case in cases] == ["plain", "long", "plain", "long", "plain", "plain"]
    assert len({case.name for case in cases}) == len(cases)
    assert {case.suite for case in cases} == {"memory"}


def test_cases_of_one_setting_are_one_conversation(data: Path) -> None:
    airports = [case for case in memory(source(data)) if case.answer == "new-airport"]
    assert {case.kind for case in airports} == {"plain", "long"}
    assert {case.conversation for case in airports} == {"airport"}


def test_the_same_seed_gives_the_same_cases_and_another_seed_others(data: Path) -> None:
    cases = list(memory(source(data)))
    assert list(memory(source(data))) == cases
    assert {case.ids for case in memory(source(data, seed=1))} != {case.ids for case in cases}


@pytest.mark.parametrize("template", [None, STRICT])
def test_the_spans_are_the_blocks_with_old_values(data: Path, template: str | None) -> None:
    given = source(data) if template is None else source(data, template=template)
    for case in memory(given):
        gone = erased(case, given)
        assert len(gone) == len(case.wrong)
        for said, value in zip(gone, case.wrong, strict=True):
            assert said.startswith("Memory ")
            assert said.endswith(f" was {value}.")
        whole, kept = text(case.ids, given), text(case.kept, given)
        for said in gone:
            whole = whole.replace(said, "", 1)
        assert kept == whole
        assert case.answer is not None
        assert case.answer in kept


@pytest.mark.parametrize("seed", range(4))
def test_a_plain_record_keeps_its_order_among_blocks_about_other_things(data: Path, seed: int) -> None:
    given = source(data, seed)
    for case in (case for case in memory(given) if case.kind == "plain"):
        whole, key = text(case.ids, given), case.conversation
        assert whole.index(case.wrong[-1]) < whole.index(f"new-{key}")
        assert whole.index(f"Note 0 of {key}") < whole.index(case.wrong[0])
        assert whole.count(f"The {key} ") == len(case.wrong) + 1
        assert not any(f"old0-{other}" in whole for other in SETTINGS.values() if other != key)


def test_half_of_the_plain_ones_have_more_after_the_old_value(data: Path) -> None:
    given = source(data)
    cases = [case for case in memory(given) if case.kind == "plain"]
    assert [case.groups["place"] for case in cases].count("early") == len(cases) / 2
    for case in cases:
        after = len(case.ids) - case.spans[-1][1]
        assert after >= AFTER or case.groups["place"] == "late"


def test_the_correction_names_the_blocks(data: Path) -> None:
    given = source(data)
    for case in memory(given):
        assert case.corrected is not None
        numbers = [said.split(" ")[1] for said in erased(case, given)]
        says = f"memory {numbers[0]} says" if len(numbers) == 1 else f"memory {numbers[0]} and memory {numbers[1]} say"
        assert text(case.corrected, given).startswith(f"user\nWhat {says} was wrong. Ignore it.\n\nWhat is the current")


def test_what_does_not_fit_is_left_out(data: Path) -> None:
    longest = max(len(case.ids) for case in memory(source(data)))
    assert 0 < len(list(memory(source(data, longest=longest)))) < 6


@pytest.mark.parametrize("name", [PLAIN, LONG])
def test_a_missing_file_is_named(data: Path, name: str) -> None:
    (data / name).unlink()
    with pytest.raises(KVMemoryError, match=rf"This suite reads {name} \(LineageKV\)"):
        next(memory(source(data)))


def test_the_real_records() -> None:
    given = source(real(PLAIN, LONG))
    cases = first(memory, given, 4)
    assert [case.kind for case in cases] == ["plain", "long"] * 2
    for case in cases:
        assert len(erased(case, given)) == len(case.spans)
        assert case.right(f"{text(case.kept, given)}{text(case.tail, given)}")
