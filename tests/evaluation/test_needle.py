"""The suite of conflicting needles: lengths, depths, and which of the two needles is erased."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.suites import needle as module
from kv_memory.evaluation.suites.needle import needle
from kv_memory.evaluation.suites.source import Source
from tests.evaluation.reading import FORM, check, erased, text, turns
from tests.evaluation.suites import first

CASES = 12
"""Of two conversations: two lengths, three depths."""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr(module, "LENGTHS", (2048, 4096, 8192))
    monkeypatch.setattr(module, "CONVERSATIONS", 2)
    chapters = (f"Chapter {n}. The cat went on.\nIt saw {n} mice! “Well,” it said. And it sat." for n in range(900))
    said = "\n\n".join(chapters)
    (tmp_path / "text_childrens_books.txt").write_text(said, encoding="utf-8")
    return Source(FORM, longest=4096, data=tmp_path, split=None)


def said(case: Case) -> str:
    """The erased needle as the correction quotes it."""
    return text(case.corrected or ()).split('"')[1]


def test_the_cases_have_the_lengths_and_depths_that_were_asked_for(source: Source) -> None:
    cases = first(needle, source, CASES)
    check(cases, source, "needle")
    wanted = [(length, depth) for length in (2048, 4096) for depth in (0.1, 0.5, 0.9)]
    assert [(case.groups["tokens"], case.groups["depth"]) for case in cases] == wanted * 2
    assert [case.conversation for case in cases] == ["0"] * 6 + ["1"] * 6
    for case in cases:
        length, depth = float(case.groups["tokens"]), float(case.groups["depth"])
        end, at = len(case.ids), case.spans[0][0]
        whole = end + len(case.corrected or ()) + module.ANSWER
        assert length - 500 < whole <= length
        assert end - case.spans[-1][1] >= module.AFTER
        assert at == pytest.approx(min(depth * end, end - module.AFTER), abs=200)


def test_exactly_one_needle_is_erased(source: Source) -> None:
    cases = first(needle, source, CASES)
    assert {case.kind for case in cases} == {"message", "characters"}
    for case in cases:
        gone, (wrong,) = erased(case), case.wrong
        assert gone == said(case)
        assert case.answer is not None
        assert wrong in gone
        assert case.answer not in gone
        assert gone in text(case.ids)
        kept = gone.replace(wrong, case.answer)
        assert gone not in text(case.kept)
        assert text(case.kept).count(kept) == 1
        place = "first" if text(case.ids).index(gone) < text(case.ids).index(kept) else "last"
        assert case.groups["erased"] == place
        assert case.right(f"It is {case.answer}.")
        assert case.misled(f"It is {wrong}.")


def test_the_needle_is_a_message_or_within_one(source: Source) -> None:
    for case in first(needle, source, CASES):
        holder = [content for _, content in turns(case.ids) if said(case) in content]
        assert len(holder) == 1
        assert (holder[0] == said(case)) == (case.kind == "message")
        emptied = [content.replace(said(case), "") for _, content in turns(case.ids)]
        assert [content for _, content in turns(case.kept)] == emptied


def test_both_places_of_the_erased_needle_come_up(source: Source) -> None:
    assert {case.groups["erased"] for case in first(needle, source, CASES)} == {"first", "last"}


def test_a_seed_decides_the_cases(source: Source) -> None:
    assert first(needle, source, 3) == first(needle, source, 3)
    assert first(needle, source, 3) != first(needle, replace(source, seed=1), 3)


def test_nothing_is_given_where_no_length_fits(source: Source) -> None:
    assert not list(needle(replace(source, longest=1000)))
