"""The file of a bench: what is kept, what is refused, and that a run which stopped is finished as if it had not."""

from __future__ import annotations

from pathlib import Path

import pytest

from kv_memory.erasers.drop import Drop
from kv_memory.erasers.recompute import Recompute
from kv_memory.errors import KVMemoryError
from kv_memory.evaluation.baselines import CORRECTION, NEVER_SAW, NO_ERASE, OTHER_CHUNKS, REREAD
from kv_memory.evaluation.bench.measure import measure
from kv_memory.evaluation.bench.record import Record, Run
from kv_memory.evaluation.bench.rows import Row
from kv_memory.evaluation.bench.run import Bench
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.machine import Environment
from tests.tiny import tiny_engine

ENVIRONMENT = Environment(hardware="a machine", python="3.11", versions={}, seed=0)
RUN = Run(
    model="tiny",
    weights=None,
    eraser=None,
    dtype="float32",
    other_dtype=None,
    device=None,
    longest=100,
    environment=ENVIRONMENT,
    commit=None,
)
BASE = (NEVER_SAW, OTHER_CHUNKS, NO_ERASE, REREAD)


def made_case(number: int) -> Case:
    ids = tuple((number + 1) * i * i % 250 for i in range(40))
    corrected = (5, 9, 6) if number == 0 else None
    return Case(
        "text",
        ids,
        ((8, 12),),
        (5, 6),
        (7, 8, 9),
        corrected=corrected,
        suite="made",
        name=f"{number}",
        conversation="a",
    )


CASES = [made_case(number) for number in range(3)]


def bench() -> Bench:
    return Bench(tiny_engine(), {"drop": Drop(), "recompute": Recompute()})


def untimed(rows: list[Row]) -> list[Row]:
    return [row.model_copy(update={"seconds": 0.0}) for row in rows]


def silent(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def at_once() -> list[Row]:
    return untimed(measure(bench(), CASES, Record(RUN), silent))


def test_each_case_has_each_treatment_in_the_same_order(at_once: list[Row]) -> None:
    names = [*BASE, "drop", "recompute"]
    first = [*BASE[:3], CORRECTION, REREAD, "drop", "recompute"]
    assert [(row.case, row.treatment) for row in at_once] == [
        *(("0", name) for name in first),
        *(("1", name) for name in names),
        *(("2", name) for name in names),
    ]
    assert {row.treatment for row in at_once if row.kl < 1e-6} == {NEVER_SAW, OTHER_CHUNKS, REREAD, "recompute"}


@pytest.mark.parametrize("cut", [1, 40, 2000, 3000])
def test_a_run_that_was_cut_off_gives_the_rows_of_one_go(at_once: list[Row], tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.jsonl"
    measure(bench(), CASES, Record(RUN, path), silent)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    record = Record(RUN, path)
    assert path.read_bytes() == whole[: whole[:-cut].rfind(b"\n") + 1]
    assert untimed(measure(bench(), CASES, record, silent)) == at_once
    assert path.read_bytes().count(b"\n") == whole.count(b"\n")
    assert untimed(Record(RUN, path).rows(CASES, bench().treatments)) == at_once


def test_what_is_there_is_not_measured_again(at_once: list[Row], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    measure(Bench(tiny_engine(), {"drop": Drop()}), CASES, Record(RUN, path), silent)
    before = path.read_bytes()
    heard: list[tuple[str, int, int]] = []
    rows = measure(bench(), CASES, Record(RUN, path), lambda *said: heard.append(said))
    assert path.read_bytes().startswith(before)
    added = path.read_bytes()[len(before) :].splitlines()
    assert [Row.model_validate_json(line).treatment for line in added] == ["recompute"] * 3
    assert untimed(rows) == at_once
    assert heard[0] == ("Measuring made", 0, 3)
    assert heard[-1][1:] == (3, 3)
    measure(bench(), CASES, Record(RUN, path), silent)
    assert len(path.read_bytes()) == len(before) + sum(len(line) + 1 for line in added)


def test_rows_are_those_of_the_cases_and_treatments_that_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    measure(bench(), CASES, Record(RUN, path), silent)
    few = measure(Bench(tiny_engine(), {}), CASES[1:2], Record(RUN, path), silent)
    assert {(row.case, row.treatment) for row in few} == {("1", name) for name in BASE}


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (RUN.model_copy(update={"model": "large"}), "model tiny, not large"),
        (RUN.model_copy(update={"weights": "ab12"}), "weights None, not ab12"),
        (RUN.model_copy(update={"dtype": "bfloat16"}), "dtype float32, not bfloat16"),
        (RUN.model_copy(update={"other_dtype": "float16"}), "other dtype None, not float16"),
        (RUN.model_copy(update={"longest": 200}), "longest case 100, not 200"),
        (RUN.model_copy(update={"environment": ENVIRONMENT.model_copy(update={"seed": 1})}), "seed 0, not 1"),
    ],
)
def test_rows_of_other_settings_are_refused(tmp_path: Path, other: Run, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    Record(RUN, path)
    before = path.read_bytes()
    with pytest.raises(KVMemoryError, match=says):
        Record(other, path)
    assert path.read_bytes() == before


def test_a_model_at_another_path_and_other_versions_are_the_same_run(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Record(RUN.model_copy(update={"weights": "ab12"}), path)
    newer = ENVIRONMENT.model_copy(update={"versions": {"torch": "9"}})
    Record(RUN.model_copy(update={"weights": "ab12", "model": "elsewhere", "environment": newer, "commit": "f"}), path)


@pytest.mark.parametrize("text", ["my notes", "my notes\nmore", "{}\n", '{"suite": "documents"}\n'])
def test_a_file_that_holds_something_else_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(KVMemoryError, match="is no file of a bench"):
        Record(RUN, path)
    assert path.read_text() == text


def test_a_line_that_is_no_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Record(RUN, path)
    path.write_text(path.read_text() + "what is this\n")
    with pytest.raises(KVMemoryError, match=r"line 2, is no row"):
        Record(RUN, path)


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "folder.jsonl"):
        with pytest.raises(KVMemoryError, match=r"cannot be (read or )?written"):
            Record(RUN, path)
