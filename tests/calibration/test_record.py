"""Calibration files, and the memory that uses one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kv_memory import Memory
from kv_memory.calibration.decide import measured
from kv_memory.calibration.estimates import Estimate
from kv_memory.calibration.rates import MeasuredRates
from kv_memory.calibration.record import (
    FILE,
    Calibration,
    Default,
    Fidelity,
    InfluenceSettings,
    Latency,
    Run,
    beside,
    load,
    shape_of,
)
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.erasers.base import Eraser
from kv_memory.erasers.shift_influence import ShiftInfluence
from kv_memory.errors import KVMemoryError
from kv_memory.pocket import model_path
from kv_memory.testing.chat import tiny_model
from tests.test_session import CONVERSATION, latest_ids
from tests.tiny import save_tiny, tiny_engine

RUN = Run(hardware="CPU", dtype="float32", versions={}, seed=0, date="2026-01-01T00:00:00+00:00", seconds=1)


def calibration(*defaults: tuple[int, str], probe_layers: tuple[int, ...] = (0,)) -> Calibration:
    return Calibration(
        model="tiny",
        shape=shape_of(tiny_model().config.to_dict()),
        influence=InfluenceSettings(probe_layers=probe_layers, normaliser="sampled"),
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


def test_a_file_of_before_is_read() -> None:
    """It names some erasers without their budget, and has shares of squared change in place of what is left."""
    file = model_path() / FILE
    assert {"layers", "defaults"} <= json.loads(file.read_text()).keys()
    found = load(file)
    assert (found.influence.probe_layers, found.influence.left, found.choices) == ((5,), None, ())
    labels = {row.eraser for table in (found.fidelity, found.latency) for row in table}
    assert labels == measured(found).keys()
    assert {"repair 32", "selective 15%", "shift+influence 32", "drop"} <= labels
    assert all(eraser.label == label for label, eraser in measured(found).items())
    assert Memory().calibration == found


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("repair", "repair 32"),
        ("shift+repair", "shift+repair 32"),
        ("selective", "selective 15%"),
        ("shift+selective", "shift+selective 15%"),
        ("drop", "drop"),
        ("steer+repair 8", "steer+repair 8"),
        ("shift+influence 25%", "shift+influence 25%"),
    ],
)
def test_an_eraser_is_named_with_its_budget(name: str, label: str) -> None:
    assert Default.model_validate({"following": 1, "eraser": name}).eraser == label


def test_a_gguf_file_has_its_calibration_beside_it(tmp_path: Path) -> None:
    assert beside(tmp_path) == tmp_path / "calibration.json"
    assert beside(tmp_path / "model.Q4_K_M.gguf") == tmp_path / "model.Q4_K_M.calibration.json"


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
    assert len(queries) == 1


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


def test_a_time_or_a_target_means_what_the_calibration_measured() -> None:
    times, left = (
        {"shift": 10, "shift+influence 20%": 20, "shift+influence 50%": 50},
        Estimate(value=0.1, low=0, high=1),
    )
    latency = [Latency(eraser=e, span=1, following=1000, milliseconds=ms, recomputed=0) for e, ms in times.items()]
    fidelity = Fidelity(eraser="shift+influence 50%", span=1, following=1000, cases=1, residual=left)
    known = calibration().model_copy(update={"latency": tuple(latency), "fidelity": (fidelity,)})
    memory = Memory(tiny_engine(), calibration=known, heal="never")

    def recomputed(eraser: str | Eraser) -> int:
        memory.delete_session("a")
        session = memory.session("a")
        session.prefill(CONVERSATION)
        return session.retract("c1", eraser=eraser).tokens_recomputed

    mine = ShiftInfluence("30ms")
    following = recomputed("shift+influence 100%")
    assert recomputed(mine) == recomputed("shift+influence 30ms") == int(0.3 * following) > 0
    assert mine.rates is None, "the caller's eraser stays as it is"
    assert recomputed("shift+influence 0.1 left") == following, "shorter than all that was measured"
    with pytest.raises(KVMemoryError, match=r"A budget of 5ms needs a calibration .* tokens after the span; run"):
        recomputed("shift+influence 5ms")
    session = memory.session("a")
    session.prefill(CONVERSATION)  # the retraction stands, and what comes after it is prefilled again
    assert memory.engine.tokenizer.decode(latest_ids(session)).endswith("And now?\n")
    assert CONVERSATION[3]["content"] not in memory.engine.tokenizer.decode(latest_ids(session))


def test_rates_of_ones_own_are_kept() -> None:
    mine = ShiftInfluence("30ms", rates=MeasuredRates(calibration()))
    assert Memory(tiny_engine(), calibration=calibration(), eraser=mine).eraser is mine
