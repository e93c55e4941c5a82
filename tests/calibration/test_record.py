"""Calibration files, and the memory that uses one."""

from __future__ import annotations

from pathlib import Path

import pytest

from kv_memory import Memory
from kv_memory.calibration.estimates import Estimate
from kv_memory.calibration.record import (
    FILE,
    Calibration,
    Default,
    Fidelity,
    InfluenceSettings,
    Latency,
    Run,
    load,
    shape_of,
)
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.errors import KVMemoryError
from kv_memory.testing.chat import tiny_model
from tests.test_session import CONVERSATION
from tests.tiny import save_tiny, tiny_engine

RUN = Run(hardware="CPU", dtype="float32", versions={}, seed=0, date="2026-01-01T00:00:00+00:00", seconds=1)


def calibration(*defaults: tuple[int, str], probe_layers: tuple[int, ...] = (0,)) -> Calibration:
    return Calibration(
        model="tiny",
        shape=shape_of(tiny_model().config.to_dict()),
        influence=InfluenceSettings(probe_layers=probe_layers, normaliser="sampled", share=0.9),
        layers=(),
        fidelity_run=RUN,
        fidelity=(Fidelity(eraser="drop", span=1, following=1, cases=1, residual=Estimate(value=0, low=0, high=0)),),
        agreement=(),
        latency_run=RUN,
        latency=(Latency(eraser="drop", span=1, following=1, milliseconds=1, recomputed=0),),
        defaults=tuple(Default(following=following, eraser=eraser) for following, eraser in defaults),
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = calibration((100, "drop"))
    (tmp_path / FILE).write_text(written.model_dump_json())
    assert load(tmp_path / FILE) == written


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}', "[1]"])
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(KVMemoryError, match="is not a calibration of this version"):
        load(tmp_path / FILE)
    with pytest.raises(KVMemoryError, match="cannot be read: No such file"):
        load(tmp_path / "other.json")


def test_the_choice_for_a_length_holds_up_to_the_next() -> None:
    known = calibration((100, "recompute"), (500, "drop"))
    assert [known.default(n) for n in (0, 99, 100, 499, 500, 9999)] == [
        None,
        None,
        "recompute",
        "recompute",
        "drop",
        "drop",
    ]


def test_a_memory_erases_as_the_calibration_beside_its_model_says(model: Path) -> None:
    (model / FILE).write_text(calibration((0, "shift"), probe_layers=(1,)).model_dump_json())
    memory = Memory(model)
    session = memory.session("a")
    session.prefill(CONVERSATION)
    assert session.retract("c1").eraser == "shift"
    seq = session.branches.latest.seq if session.branches.latest else 0
    assert isinstance(memory.engine, TransformersEngine)
    queries = memory.engine.read_cells(seq, [0]).queries
    assert queries is not None
    assert queries.shape[0] == 1


def test_below_the_shortest_length_that_was_measured_erasing_is_exact(model: Path) -> None:
    session = Memory(model, calibration=calibration((10_000, "shift")), heal="never").session("a")
    session.prefill(CONVERSATION)
    assert session.retract("c1").status == "exact"


def test_a_calibration_serves_an_engine_that_is_given_ready(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(calibration((0, "influence 16")).model_dump_json())
    memory = Memory(tiny_engine(), calibration=tmp_path / FILE)
    session = memory.session("a")
    session.prefill(CONVERSATION)
    assert session.retract("c1").tokens_recomputed == 16


def test_what_the_engine_cannot_do_is_done_exactly() -> None:
    engine = tiny_engine()
    engine.ruled_out["influence"] = "for this test"
    session = Memory(engine, calibration=calibration((0, "influence 16")), heal="never").session("a")
    session.prefill(CONVERSATION)
    assert session.retract("c1").eraser == "recompute"


def test_a_calibration_of_another_shape_is_refused(model: Path) -> None:
    other = calibration().model_copy(update={"shape": {"model_type": "llama"}, "model": "other"})
    (model / FILE).write_text(other.model_dump_json())
    with pytest.raises(KVMemoryError, match="The calibration is of other, a model of another shape"):
        Memory(model)
