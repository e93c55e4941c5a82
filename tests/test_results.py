"""Result files: small, a row a line, and the tables of the README and docs are made from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import fidelity, record, tables
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


def test_what_is_saved_of_a_bench_has_counts_and_no_times(folders: tuple[Path, Path], tmp_path: Path) -> None:
    def row(treatment: str, kl: float, place: str) -> str:
        case = {"suite": "documents", "case": place, "conversation": place, "kind": "nq", "groups": {"place": place}}
        sizes = {"tokens": 20, "erased": 4, "following": 8, "recomputed": 2}
        found = {"agrees": not kl, "answer": "a", "right": not kl, "misled": kl > 0.5}
        return json.dumps({**case, **sizes, "treatment": treatment, "kl": kl, "seconds": 1.0, **found})

    left = {"never-saw": 0.0, "never-saw, other chunks": 0.0, "re-prefill": 0.0, "no erase": 1.0, "drop": 0.4}
    left |= {fidelity.DEFAULT: 0.1, "shift+influence 5% then 5%": 0.0}
    run = {"model": "model", "weights": "w", "eraser": None, "dtype": "float32", "other_dtype": None, "device": None}
    versions = {"torch": "1", "transformers": "2", "tokenizers": "3", "kv-memory": "4"}
    machine = {"hardware": "a card", "python": "3", "versions": versions, "seed": 0}
    rows = [row(name, kl, place) for place in ("first", "later") for name, kl in left.items()]
    first = json.dumps({**run, "longest": 99, "environment": machine, "commit": "abc"})
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([first, *rows]))

    fidelity.saved([path], "name", "two cards")
    result = json.loads(folders[0].read_text())
    assert result["environment"]["hardware"] == "two cards"
    assert result["environment"]["commit"] == "abc"
    found = result["models"]["model"]
    treatments = found["suites"]["documents"]["treatments"]
    assert set(treatments) == left.keys() - {"shift+influence 5% then 5%"}
    assert treatments["drop"]["residual"]["value"] == pytest.approx(0.4)
    assert treatments["drop"]["agrees"] == treatments["drop"]["restored"] == [0, 2]
    assert treatments["no erase"]["misled"] == [2, 2]
    assert "seconds" not in treatments["drop"]
    assert [group["value"] for group in found["groups"] if group["by"] == "place"] == ["first", "later"]
    assert "drop" not in found["groups"][0]["treatments"]


@pytest.mark.parametrize("path", sorted(record.RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_result_files_are_small(path: Path) -> None:
    assert path.stat().st_size < 100_000
    assert max(len(line) for line in path.read_text().splitlines()) < 2 * record.ROW


@pytest.mark.parametrize(("page", "texts"), tables.pages().items(), ids=lambda it: getattr(it, "name", ""))
def test_pages_show_the_results(page: Path, texts: list[str]) -> None:
    assert tables.filled(page.read_text(), texts) == page.read_text()
