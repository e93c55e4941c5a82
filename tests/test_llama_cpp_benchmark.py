"""The benchmark of the llama.cpp engine: bounded, resumable, one file; on a model of two layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import llama_cpp, record
from benchmarks.tables import llama_cpp_table

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make llama)", exc_type=ImportError)

from benchmarks.llama_cpp_cell import OutOfTimeError, measure
from benchmarks.random_adapter import write_adapter
from benchmarks.random_gguf import random_gguf
from kv_memory.erasers import ERASERS

HEADER = {
    "hardware": "here",
    "seed": 0,
    "span": 100,
    "rounds": 1,
    "versions": {"llama-cpp-python": "0.3.36"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("random")
    model = random_gguf(folder / "model.gguf", vocabulary=8192, layers=2)
    return model, write_adapter(model, folder / "adapter.gguf", 0)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record, "RAW", tmp_path / "raw")
    return tmp_path / "name.json"


def cell(**more: Any) -> dict[str, Any]:
    times = {name: 10.0 for name in [*ERASERS, "reprefill", "reuse"]}
    return {
        "erase_milliseconds_median": times,
        "reprefill_over": dict.fromkeys(times, 1.5),
        "turn_milliseconds": {"engine": [20.0], "llama.cpp": [10.0]},
        "resident_megabytes_at_most": 500.0,
        "not_measured": [],
        **more,
    }


def test_a_cell_measures_all_erasers_and_both_own_ways(files: tuple[Path, Path]) -> None:
    found = measure(*files, 256, rounds=1, seed=0)
    assert set(found["erase_milliseconds_median"]) == {*ERASERS, "reprefill", "reuse"}
    assert found["not_measured"] == []
    assert set(cell()) <= set(found)


def test_without_time_nothing_is_read_again_and_that_is_said(files: tuple[Path, Path]) -> None:
    with pytest.raises(OutOfTimeError, match="of 2,048 tokens"):
        measure(*files, 2048, rounds=1, seed=0, seconds=0.01)


def test_a_run_that_was_stopped_goes_on(results: Path) -> None:
    asked: list[tuple[str, int]] = []

    def run(model: str, context: int) -> dict[str, Any]:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append((model, context))
        return cell()

    models, contexts = ["pocket", "qwen2-0.5b"], [1024, 4096]
    for _ in range(2):
        result = llama_cpp.resumed("name", HEADER)
        try:
            llama_cpp.fill(result, llama_cpp.missing(result, models, contexts), "name", run)
        except KeyboardInterrupt:
            assert [*json.loads(results.read_text())["models"]["pocket"]] == ["1024", "4096"]
            done, asked = asked, []
    assert [*done, *asked] == [(model, context) for model in models for context in contexts]
    written = json.loads(results.read_text())
    assert llama_cpp.missing(written, models, contexts) == []
    assert {"commit", "load_average"} <= set(written["models"]["pocket"]["1024"])


def test_figures_of_other_settings_are_not_mixed_in(results: Path) -> None:
    results.write_text(json.dumps({**HEADER, "models": {"pocket": {"1024": cell()}}}))
    assert llama_cpp.resumed("name", HEADER)["models"]
    assert llama_cpp.resumed("name", {**HEADER, "rounds": 5})["models"] == {}
    assert llama_cpp.resumed("other", HEADER)["models"] == {}


def test_the_table_has_a_row_for_each_cell_and_gaps_where_time_ran_out() -> None:
    short = {"not_measured": ["512 of 16,384 tokens were read in the time for it"]}
    rows = {"1024": cell(commit="abc"), "16384": {**short, "commit": "abc"}}
    page = llama_cpp_table({**HEADER, "models": {"pocket": rows}})
    head, _, first, last = (line for line in page.splitlines() if line.startswith("|"))
    assert head.count("|") == first.count("|") == last.count("|")
    assert first.startswith("| pocket, F16 | 1,024 | 10 | 10 | 10 (1.5x) |")
    assert first.endswith("| 10, 20 | 500 MB |")
    assert set(last.replace("| pocket, F16 | 16,384 ", "")) == {"|", " ", "-"}
