"""Result files: small, a row a line, and the tables of the README and docs are made from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import record, tables
from benchmarks.influence import shown

MEASURED = {"value": 1 / 3, "rows": [{"eraser": "drop", "left": i / 7} for i in range(40)]}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(record, "RAW", tmp_path / "raw")
    return tmp_path / "results" / "name.json", tmp_path / "raw" / "name.json"


def test_a_summary_has_a_row_a_line_and_the_rest_stays_whole(folders: tuple[Path, Path]) -> None:
    summary, whole = folders
    record.save("name", MEASURED)
    assert json.loads(whole.read_text()) == MEASURED
    assert json.loads(summary.read_text()) == record.rounded(MEASURED)
    assert summary.read_text().count('{"eraser": "drop"') == len(summary.read_text().splitlines()) - 5


def test_a_run_goes_on_from_what_was_measured_else_from_the_summary(folders: tuple[Path, Path]) -> None:
    assert record.earlier("name") == {}
    record.save("name", MEASURED, {"value": 0.5})
    assert record.earlier("name") == MEASURED
    folders[1].unlink()
    assert record.earlier("name") == {"value": 0.5}


def test_sources_that_are_there_are_left_out(folders: tuple[Path, Path]) -> None:
    record.save("name", {"seed": 0, "sources": {"one": 1}}, {})
    assert record.begun("name", {"seed": 0}, ["one", "two"]) == ({"seed": 0, "sources": {"one": 1}}, ["two"])
    assert record.begun("name", {"seed": 1}, ["one", "two"])[1] == ["one", "two"]
    with pytest.raises(SystemExit, match="every source"):
        record.begun("name", {"seed": 0}, ["one"])


def test_what_is_shown_of_influence_is_shown_whole() -> None:
    result = json.loads((record.RESULTS / "influence.json").read_text())
    assert shown(result) == result
    more = {**result["lengths"]["2048"], "keep": {"drop": {}, "layer 3": {}}}
    assert shown({**result, "lengths": {**result["lengths"], "2048": more}}) == result


@pytest.mark.parametrize("path", sorted(record.RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_result_files_are_small(path: Path) -> None:
    assert path.stat().st_size < 100_000
    assert max(len(line) for line in path.read_text().splitlines()) < 2 * record.ROW


@pytest.mark.parametrize(("page", "texts"), tables.pages().items(), ids=lambda it: getattr(it, "name", ""))
def test_pages_show_the_results(page: Path, texts: list[str]) -> None:
    assert tables.filled(page.read_text(), texts) == page.read_text()
