"""An engine that has the required core alone: it can be used in a Memory, and erases by recompute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kv_memory import Memory, SpanKind
from kv_memory.engines.parts import PARTS, AttentionScores, CellEdit, capabilities, lacks, require
from kv_memory.erasers import ERASERS, get_eraser
from kv_memory.errors import UnsupportedOperationError
from kv_memory.policy.choose import default_eraser
from kv_memory.testing.adapters import save_lora
from kv_memory.testing.chat import tiny_model
from kv_memory.trained.files import open_eraser
from tests.calibration.test_record import calibration
from tests.core_only import CoreEngine
from tests.test_session import CONVERSATION, latest_ids
from tests.tiny import tiny_engine


def core_engine() -> CoreEngine:
    """The tiny engine's core."""
    return CoreEngine(tiny_engine())


@pytest.fixture
def memory() -> Memory:
    return Memory(core_engine())


def never_saw() -> str:
    session = Memory(core_engine()).session("fresh")
    session.prefill(CONVERSATION, without=["c1"])
    return session.chat(CONVERSATION, max_tokens=12).text


def test_it_has_no_capability_and_each_says_why() -> None:
    engine = core_engine()
    assert capabilities(engine) == frozenset()
    assert all(lacks(engine, name) for name in PARTS)
    assert capabilities(tiny_engine()) == PARTS.keys()


def test_what_a_model_or_its_settings_rule_out_is_no_capability() -> None:
    engine = tiny_engine()
    engine.ruled_out["shift"] = "its keys do not turn"
    assert capabilities(engine) == PARTS.keys() - {"shift"}
    with pytest.raises(UnsupportedOperationError, match=r"'shift' needs shift, which .* lacks: its keys do not turn;"):
        get_eraser("shift").erase(engine, engine.create(), [])


def test_a_conversation_is_answered_and_a_retraction_recomputes(memory: Memory) -> None:
    session = memory.session("a")
    session.chat(CONVERSATION, max_tokens=4)
    report = session.retract("c1")
    assert (report.eraser, report.status, report.residual) == ("recompute", "exact", 0.0)
    assert session.chat(CONVERSATION, max_tokens=12).text == never_saw()


def test_undoing_reads_the_text_again(memory: Memory) -> None:
    session = memory.session("a")
    session.prefill(CONVERSATION)
    before = latest_ids(session)
    text = session.chat(CONVERSATION, max_tokens=12).text
    session.undo(session.retract("c1"))
    assert session.chat(CONVERSATION, max_tokens=12).text == text
    assert latest_ids(session)[: len(before)] == before


def test_healing_has_nothing_to_do(memory: Memory) -> None:
    session = memory.session("a")
    session.prefill(CONVERSATION)
    session.retract("c1")
    before = latest_ids(session)
    session.heal()
    assert latest_ids(session) == before


def test_the_default_is_recompute_whatever_was_calibrated() -> None:
    engine = core_engine()
    assert default_eraser(engine, 10_000).name == "recompute"
    assert default_eraser(engine, 10_000, calibration((0, "influence 16"))).name == "recompute"
    assert default_eraser(engine, 10_000, calibration((0, "drop"))).name == "recompute"


@pytest.mark.parametrize("name", [name for name in ERASERS if name != "recompute"])
def test_every_other_eraser_is_refused_by_name_before_anything_is_touched(memory: Memory, name: str) -> None:
    session = memory.session("a")
    session.prefill(CONVERSATION)
    before = latest_ids(session)
    with pytest.raises(
        UnsupportedOperationError, match=rf"'{name.replace('+', '.')}' needs .* core lacks: it .* use 'rec"
    ):
        session.retract("c1", eraser=name)
    seq, engine = session.branches.latest.seq, memory.engine  # type: ignore[union-attr]
    with pytest.raises(UnsupportedOperationError, match="use 'recompute'"):
        get_eraser(name).erase(engine, seq, [(5, 9)])
    assert latest_ids(session) == before


def call_in(memory: Memory) -> str:
    """The assistant's call in the conversation."""
    return next(span.id for span in memory.session("a").spans() if span.kind is SpanKind.TOOL_CALL)


USES: dict[str, Callable[[Memory], object]] = {
    "keep_undo needs rows": lambda memory: memory.session("a").retract("c1", keep_undo=True),
    "cascade='report' needs score": lambda memory: memory.session("a").retract("c1", cascade="report"),
    "Session.score needs score": lambda memory: memory.session("a").score(CONVERSATION, "yes"),
    "Scoring answers needs score": lambda memory: memory.session("a").attribute(call_in(memory)),
}


@pytest.mark.parametrize("use", USES)
def test_what_needs_more_is_refused_in_one_sentence(memory: Memory, use: str) -> None:
    session = memory.session("a")
    session.prefill(CONVERSATION)
    before = latest_ids(session)
    with pytest.raises(
        UnsupportedOperationError, match=f"^{use}, which the engine of core lacks: it gives no [^.]*[.]$"
    ):
        USES[use](memory)
    assert latest_ids(session) == before
    assert not session.reports


def test_a_trained_eraser_is_refused(memory: Memory, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperationError, match="The engine of core loads no adapters"):
        open_eraser(save_lora(tiny_model(), tmp_path / "eraser")).load(memory.engine)


def test_a_part_is_the_engine_itself_or_refused() -> None:
    engine = tiny_engine()
    assert require(engine, CellEdit, "x") is engine
    with pytest.raises(UnsupportedOperationError, match=r"^This needs influence, which the engine of core lacks"):
        require(core_engine(), AttentionScores, "This")


def test_positions_and_tokens_follow_from_the_cells() -> None:
    engine = core_engine()
    seq = engine.create()
    engine.prefill(seq, [5, 6, 7], [0, 2, 9])
    assert (engine.positions(seq), engine.tokens(seq)) == ([0, 2, 9], [5, 6, 7])
