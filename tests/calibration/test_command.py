"""`kv-memory calibrate`, from the command line to the file."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kv_memory import Memory
from kv_memory.calibration.record import FILE, load
from kv_memory.engines.base import Engine
from kv_memory.engines.llama_cpp import LlamaCppEngine
from kv_memory.engines.parts import ProbeLayers
from kv_memory.engines.registry import open_engine
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.erasers import ERASERS
from kv_memory.errors import KVMemoryError, UnsupportedOperationError
from kv_memory.evaluation.calibrate.calibrate import LAYER_CASES, calibrate
from kv_memory.evaluation.calibrate.plan import Plan
from kv_memory.gguf import export_model
from kv_memory.testing.adapters import save_lora
from kv_memory.testing.chat import tiny_model, tiny_tokenizer
from kv_memory.trained import record as eraser_record
from kv_memory.trained.files import open_eraser
from tests.core_only import CoreEngine
from tests.lora import save_eraser
from tests.test_cli import model, run
from tests.tiny import hybrid_engine, save_tiny, tiny_engine

__all__ = ["model", "run"]  # fixtures

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--span", 8, "--following", 40, "--cases", 2, "--probes", 0)


def test_a_model_is_calibrated_and_then_erases_as_was_found(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    code, shown, err = run("calibrate", "--model", model, "--out", out, *SMALL)
    assert (code, err) == (0, "")
    found = load(out)
    assert {row.eraser.split()[0] for row in found.fidelity} == {name for name in ERASERS if "steer" not in name}
    assert {(row.following, row.cases) for row in found.fidelity} == {(40, 2)}
    assert found.choices
    assert found.influence.memory == len(found.influence.probe_layers) * tiny_engine().probe_memory
    exact = next(row for row in found.fidelity if row.eraser == "recompute")
    assert exact.residual.value < 1e-6
    assert found.agreement == ()
    assert found.latency_run.seconds > 0
    assert "default" in shown
    assert f"wrote {out}" in shown.replace("\n", "")
    memory = Memory(model, calibration=out)
    assert memory.calibration == found


def test_a_directory_gets_its_calibration_beside_the_weights(run: Run, model: Path) -> None:
    assert run("calibrate", "--model", model, *SMALL)[0] == 0
    (model / FILE).unlink()


def test_fidelity_from_elsewhere_is_kept_and_time_is_measured_here(run: Run, model: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    run("calibrate", "--model", model, "--out", first, *SMALL)
    assert run("calibrate", "--model", model, "--out", second, "--fidelity", first, *SMALL, "--following", 60)[0] == 0
    there, here = load(first), load(second)
    assert (here.fidelity, here.influence, here.fidelity_run) == (there.fidelity, there.influence, there.fidelity_run)
    assert {row.following for row in here.latency} == {40, 60}


@pytest.mark.parametrize("record", [True, False], ids=["with a record", "a plain LoRA"])
def test_a_trained_eraser_is_measured_too_and_gets_the_result(
    run: Run, model: Path, tmp_path: Path, record: bool
) -> None:
    folder, again = tmp_path / "eraser", tmp_path / "again.json"
    if record:
        save_eraser(tiny_engine(), tiny_model(), folder, seed=3)
    else:
        save_lora(tiny_model(), folder)
    code, shown, err = run("calibrate", "--model", model, "--eraser", folder, *SMALL)
    assert (code, err) == (0, "")
    assert f"wrote {folder / eraser_record.FILE}" in shown.replace("\n", "")
    found = open_eraser(folder)
    assert found.record is not None
    assert found.calibration is not None
    assert {row.eraser.split()[0] for row in found.calibration.latency} == set(ERASERS)
    assert found.record.seed == (3 if record else None)
    assert Memory(model, eraser=folder).calibration == found.calibration
    # the time alone, once more
    known = ("--fidelity", folder / eraser_record.FILE, "--eraser", folder, "--out", again)
    assert run("calibrate", "--model", model, *known, *SMALL)[0] == 0
    assert load(again).fidelity == found.calibration.fidelity


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model", "/no/such/model"], "/no/such/model"),
        (["--eraser", "/no/such/eraser"], "/no/such/eraser is not a trained eraser"),
        (["--fidelity", "/no/such/eraser.json"], "/no/such is not a trained eraser"),
        (["--out", "/no/such/folder/c.json"], "/no/such/folder/c.json cannot be written"),
        (["--text", "/no/such/text"], "/no/such/text cannot be read"),
        (["--fidelity", "/no/such/file"], "/no/such/file cannot be read"),
        (["--following", 5000], "reads at most 700 tokens"),
        (["--span", 0], "at least 1"),
    ],
)
def test_what_is_wrong_is_one_line(run: Run, model: Path, tmp_path: Path, args: list[object], says: str) -> None:
    chosen = [*SMALL, *args]
    chosen = chosen if "--model" in args else [*chosen, "--model", model]
    chosen = chosen if "--out" in args else [*chosen, "--out", tmp_path / FILE]
    code, out, err = run("calibrate", *chosen)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "says"), [(b"too short", "The text has 9 tokens"), (b"\xff", "is not UTF-8")])
def test_a_text_that_will_not_do_is_one_line(run: Run, model: Path, tmp_path: Path, text: bytes, says: str) -> None:
    (tmp_path / "text").write_bytes(text)
    code, _, err = run("calibrate", "--model", model, "--out", tmp_path / FILE, "--text", tmp_path / "text", *SMALL)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1


def test_an_eraser_that_was_never_calibrated_has_no_fidelity_to_take(run: Run, model: Path, tmp_path: Path) -> None:
    folder = save_eraser(tiny_engine(), tiny_model(), tmp_path / "eraser")
    code, _, err = run("calibrate", "--model", model, "--fidelity", folder / eraser_record.FILE, *SMALL)
    assert code == 2
    assert f"{folder / eraser_record.FILE} holds no calibration" in err


def test_questions_that_a_model_cannot_answer_are_not_counted(tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    plan = Plan(spans=(8,), followings=(256,), cases=1, probes=1)
    text = "all work and no play makes jack a dull boy. " * 40
    tiny_model(max_positions=8192).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    found = calibrate(
        tmp_path, plan=plan, text=text, progress=lambda what, done, total: heard.append((what, done, total))
    )
    assert found.agreement == ()
    assert ("Choosing probe layers", LAYER_CASES, LAYER_CASES) in heard
    assert ("Erasing spans", 1, 1) in heard


def test_a_calibration_of_another_model_is_refused(model: Path) -> None:
    plan = Plan(followings=(40,), cases=1)
    first = calibrate(tiny_engine(), plan=plan)
    other = first.model_copy(update={"shape": {}})
    for source in (model, tiny_engine()):
        with pytest.raises(KVMemoryError, match="another shape"):
            calibrate(source, plan=plan, known=other)


@pytest.mark.parametrize("layers", [(0,), (0, 1), ()])
def test_a_ready_engine_keeps_its_probe_layers(layers: tuple[int, ...]) -> None:
    engine = TransformersEngine(tiny_model(), tiny_tokenizer(), probe_layers=layers)
    found = calibrate(engine, plan=Plan(followings=(40,), cases=1))
    assert found.influence.probe_layers == engine.probe_layers == layers
    assert (found.influence.left, found.choices) == (None, ())
    assert found.influence.memory == len(layers) * engine.probe_memory
    assert any("influence" in row.eraser for row in found.fidelity) is bool(layers)


def test_an_engine_that_cannot_move_cells_is_measured_by_what_it_can() -> None:
    engine = tiny_engine()
    engine.ruled_out["shift"] = "for this test"
    found = calibrate(engine, plan=Plan(followings=(40,), cases=1))
    labels = {row.eraser for row in found.latency}
    assert {"influence 5%", "repair 50%", "drop", "recompute"} <= labels
    assert not any("shift" in label for label in labels)


def test_an_engine_that_scores_no_tokens_is_refused() -> None:
    says = "Calibration needs score, which the engine of core lacks: it gives no log-probabilities of tokens"
    with pytest.raises(UnsupportedOperationError, match=says):
        calibrate(CoreEngine(tiny_engine()), plan=Plan(followings=(40,), cases=1))


def test_a_model_is_loaded_with_all_queries_and_then_with_those_that_were_chosen(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[ProbeLayers, int]] = []
    alive: list[weakref.ref[Engine]] = []

    def opened(*args: Any, probe_layers: ProbeLayers, **settings: Any) -> Engine:
        loaded.append((probe_layers, sum(each() is not None for each in alive)))
        engine = open_engine(*args, probe_layers=probe_layers, **settings)
        alive.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr("kv_memory.evaluation.calibrate.calibrate.open_engine", opened)
    found = calibrate(model, plan=Plan(followings=(40,), cases=1))
    assert loaded == [("all", 0), (found.influence.probe_layers, 0)], "and never two at once"


def test_a_gguf_model_is_calibrated(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make llama)", exc_type=ImportError)
    file = tmp_path / "tiny.gguf"
    export_model(save_tiny(tmp_path / "model"), file, "f32")
    code, shown, _ = run("calibrate", "--model", file, "--following", 40, "--cases", 1)
    assert code == 0
    beside = tmp_path / "tiny.calibration.json"
    assert f"wrote {beside}" in shown.replace("\n", "")
    found = load(beside)
    assert {row.eraser.split()[0] for row in found.fidelity} == {name for name in ERASERS if "steer" not in name}
    exact = next(row for row in found.fidelity if row.eraser == "recompute")
    assert exact.residual.value < 1e-6
    assert found.influence.memory == pytest.approx(0.75 * len(found.influence.probe_layers))
    assert "llama_cpp_python" in found.latency_run.versions
    memory = Memory(file)
    assert memory.calibration == found
    assert isinstance(memory.engine, LlamaCppEngine)
    assert memory.engine.probe_layers == found.influence.probe_layers


def test_where_recompute_is_the_only_eraser_there_is_nothing_to_calibrate() -> None:
    with pytest.raises(UnsupportedOperationError, match="nothing to calibrate for hybrid, since 'recompute' is its"):
        calibrate(hybrid_engine(), plan=Plan(followings=(40,), cases=1))
