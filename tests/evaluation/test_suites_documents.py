"""The suite of documents one of which gives a wrong answer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kv_memory.errors import KVMemoryError
from kv_memory.evaluation.suites.conflicts import KINDS, kind_of
from kv_memory.evaluation.suites.documents import AFTER, documents
from tests.evaluation.suites import erased, first, real, source, text, write
from tests.tiny import STRICT

FILES = ("ramdocs_dev.jsonl", "multihop_2wiki.jsonl", "nq_open_oracle.jsonl", "conflict_nq_val.jsonl")
TOWNS = ("Ashford", "Brookby", "Calder", "Denholm")
FILLING = "The town lies on a river, has a mill, two inns and a market that is held on the first day of each month. "


def ramdocs(town: str, number: int, **changed: Any) -> dict[str, Any]:
    right, wrong = f"{number},100 people", f"{number},900 people"
    return {
        "question": f"What is the population of {town}?",
        "disambig_entity": [f"{town} (town)"],
        "gold_answers": [right],
        "wrong_answers": [wrong],
        "documents": [
            {"text": f"{town} had {right} in 1911. {FILLING}", "type": "correct", "answer": right},
            {"text": f"{town} had {wrong} in 1911. {FILLING}", "type": "misinfo", "answer": wrong},
            {"text": f"A copy says that {town} had {wrong}. {FILLING}", "type": "noise", "answer": "unknown"},
            {"text": f"{town} is twinned with a town abroad. {FILLING}", "type": "noise", "answer": "unknown"},
        ],
    } | changed


def multi_hop(town: str, number: int, **changed: Any) -> dict[str, Any]:
    return {
        "id": f"hop-{town}",
        "question": f"Where was the founder of {town} born?",
        "answer": f"Port {town.upper()}",
        "aliases": [],
        "paragraphs": [
            {"title": town, "text": f"{town} was founded by Mr {number}.", "is_supporting": True},
            {
                "title": f"Mr {number}",
                "text": f"Born in Port {town.upper()}, he sailed. {FILLING}",
                "is_supporting": True,
            },
            {"title": f"Walks {number}", "text": f"A path leads to {town}. {FILLING}", "is_supporting": False},
        ],
    } | changed


def nq(town: str, number: int, **changed: Any) -> dict[str, Any]:
    passage = {"title": f"{town} Hall", "text": f"The hall was opened in 187{number}. {FILLING * 2}", "isgold": True}
    return {"question": f"when was the hall of {town} opened", "answers": [f"187{number}"], "ctxs": [passage]} | changed


def conflict_nq(town: str, number: int, **changed: Any) -> dict[str, Any]:
    return {
        "id": str(number),
        "cleaned_question": f"Who drew the bridge of {town}?",
        "real_short_answer": f"Clara V{number}",
        "real_passages": [{"summary": f"{town} Bridge", "passage": f"Clara V{number} drew it. {FILLING * 2}"}],
        "fake_short_answer": f"Edwin P{number}",
        "fake_passages": [
            {"summary": "", "passage": f"Edwin P{number} drew it."},
            {"passage": f"Edwin P{number} did."},
        ],
    } | changed


MADE = dict(zip(FILES, (ramdocs, multi_hop, nq, conflict_nq), strict=True))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, make in MADE.items():
        write(tmp_path, name, [make(town, number) for number, town in enumerate(TOWNS, 1)])
    return tmp_path


def test_kinds_come_in_turns_and_each_record_once(data: Path) -> None:
    cases = list(documents(source(data)))
    assert [case.kind for case in cases] == [*KINDS] * len(TOWNS)
    assert len({case.name for case in cases}) == len(cases)
    assert {case.suite for case in cases} == {"documents"}


def test_the_same_seed_gives_the_same_cases_and_another_seed_others(data: Path) -> None:
    cases = list(documents(source(data)))
    assert list(documents(source(data))) == cases
    again = list(documents(source(data, seed=1)))
    assert [case.name for case in again] != [case.name for case in cases]
    assert {case.name for case in again} == {case.name for case in cases}


@pytest.mark.parametrize("kind", KINDS)
def test_the_span_is_the_wrong_document_alone(data: Path, kind: str) -> None:
    given = source(data)
    for case in (case for case in documents(given) if case.kind == kind):
        assert case.answer is not None
        (gone,) = erased(case, given)
        assert case.wrong[0] in gone
        assert case.answer not in gone
        kept = text(case.kept, given)
        assert case.answer in kept
        assert case.wrong[0] not in kept
        assert f"<tool_response>\n{gone}\n</tool_response>" in text(case.ids, given)
        assert text(case.ids, given).replace(gone, "", 1) == kept


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_a_kind_reads_the_wrong_document_first_and_all_read_others_after_it(data: Path, kind: str) -> None:
    given = source(data)
    cases = [case for case in documents(given) if case.kind == kind]
    places = [case.groups["place"] for case in cases]
    assert places.count("first") == places.count("later") == len(TOWNS) / 2
    for case in cases:
        before = text(case.ids[: case.spans[0][0]], given)
        assert ("</tool_response>" not in before) is (case.groups["place"] == "first")
        after = re.findall(
            r"<tool_response>\n(.*?)\n</tool_response>", text(case.ids[case.spans[0][1] :], given), re.DOTALL
        )
        assert sum(map(len, after)) >= AFTER


def test_the_question_comes_after_the_reading_and_the_correction_names_the_result(data: Path) -> None:
    given = source(data)
    for case in documents(given):
        assert case.corrected is not None
        question = text(case.tail, given)
        assert question.startswith("user\n")
        assert question.endswith("assistant\n")
        place = text(case.ids[: case.spans[0][0]], given).count("<tool_response>")
        correction = f"The result of call_{place} was wrong. Ignore it.\n\n"
        assert text(case.corrected, given) == question.replace("user\n", f"user\n{correction}", 1)


def test_another_record_s_answer_of_the_same_kind_replaces_the_right_one(data: Path) -> None:
    wrong = {case.kind: case.wrong[0] for case in documents(source(data))}
    assert wrong["multi-hop"].startswith("Port ")
    assert wrong["nq"].startswith("187")


def test_an_answer_in_a_sentence_is_right_and_the_wrong_one_misleads(data: Path) -> None:
    case = next(documents(source(data)))
    assert case.right(f"It had {case.answer} then.")
    assert case.misled(f"It had {case.wrong[0]} then.")


def test_documents_fit_a_template_without_tools_and_with_strict_turns(data: Path) -> None:
    given = source(data, template=STRICT)
    for case in first(documents, given, 8):
        (gone,) = erased(case, given)
        assert case.wrong[0] in gone
        assert case.wrong[0] not in text(case.kept, given)


def test_what_does_not_fit_is_left_out(data: Path) -> None:
    whole = list(documents(source(data)))
    limit = sorted(len(case.ids) for case in whole)[len(whole) // 2]
    short = list(documents(source(data, longest=limit)))
    assert 0 < len(short) < len(whole)
    assert all(len(case.ids) + len(case.corrected or ()) + 128 <= limit for case in short)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(data: Path, name: str) -> None:
    (data / name).unlink()
    with pytest.raises(KVMemoryError, match=rf"This suite reads {name} \("):
        next(documents(source(data)))


@pytest.mark.parametrize(
    ("kind", "name", "changed"),
    [
        ("ramdocs", FILES[0], {"gold_answers": ["1,900 people"]}),  # the wrong one is right as well
        ("ramdocs", FILES[0], {"gold_answers": ["7 people"]}),  # in no document
        ("ramdocs", FILES[0], {"question": "Does Ashford have 1,100 people?"}),
        ("multi-hop", FILES[1], {"answer": "yes"}),
        ("multi-hop", FILES[1], {"question": "Which is older, Ashford or Brookby?", "answer": "Ashford"}),
        ("nq", FILES[2], {"answers": ["the first day"]}),  # of no kind
        ("conflict-nq", FILES[3], {"fake_short_answer": "Clara"}),  # part of the right one
        ("conflict-nq", FILES[3], {"real_short_answer": "one two three four five six seven eight nine"}),
    ],
)
def test_records_that_tell_nothing_are_left_out(data: Path, kind: str, name: str, changed: dict[str, Any]) -> None:
    make = MADE[name]
    write(data, name, [make("Ashford", 1, **changed), *(make(t, n) for n, t in enumerate(TOWNS[1:], 2))])
    usable = [found for found in KINDS[kind](source(data)) if found.usable]
    assert len(usable) == len(TOWNS) - 1


@pytest.mark.parametrize(
    ("question", "answer", "kind"),
    [
        ("when was it opened", "May 18, 2018", "date"),
        ("when was it opened", "1871", "year"),
        ("how many are there", "1,300", "number"),
        ("What nationality is the director?", "American", "nationality"),
        ("Which country is he from?", "Austria", "country"),
        ("Where did he study?", "Harvard University", "school"),
        ("Where was he born?", "Liverpool", "place"),
        ("What is the place of birth of the director?", "Liverpool", "place"),
        ("who designed it", "Clara Venn", "person"),
        ("who is it named after", "the mill", None),
        ("What does it mean?", "Hit points", None),
    ],
)
def test_the_kind_of_an_answer(question: str, answer: str, kind: str | None) -> None:
    assert kind_of(question, answer) == kind


def test_the_real_records() -> None:
    given = source(real(*FILES))
    cases = first(documents, given, 24)
    assert [case.kind for case in cases] == [*KINDS] * 6
    for case in cases:
        (gone,) = erased(case, given)
        assert case.misled(gone)
        assert case.right(text(case.kept, given))
