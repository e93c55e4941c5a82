"""Tests of sessions: whatever happens, ledger and cells agree, and exact erasure equals never having seen."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kv_memory import CharRange, Memory, Session
from kv_memory.engines.base import STEERED
from kv_memory.engines.parts import lacks
from kv_memory.erasers import ERASERS
from kv_memory.sessions.heal import Healing
from kv_memory.testing.conformance.case import AllParts, Case, Cases

TEXTS = st.sampled_from(["hi", "the price is 30", "é🙂", "<|im_end|>\n", " a  b "])


class SessionHistory(RuleBasedStateMachine):
    """One caller's history and a session; the retracted texts carry a mark that must never be read afterwards."""

    engine: ClassVar[AllParts]

    @initialize()
    def start(self) -> None:
        self.erasers = [name for name in sorted(ERASERS) if not ERASERS[name]().lacking(self.engine)]
        self.keeps_undo = not lacks(self.engine, "rows")
        self.memory = Memory(self.engine, heal="never")
        self.healing: Healing | None = None
        self.session: Session = self.memory.session("s")
        self.history: list[dict[str, Any]] = [{"role": "system", "content": "Be brief.", "id": "m0"}]
        self.count = 0
        self.retracted: set[str] = set()
        self.calls = 0

    def _add(self, **message: Any) -> None:
        self.count += 1
        self.history.append({**message, "id": f"m{self.count}"})

    @rule(text=TEXTS)
    def say(self, text: str) -> None:
        self._add(role="user", content=f"{text}#{self.count}#")

    @rule(text=TEXTS)
    def use_a_tool(self, text: str) -> None:
        self.calls += 1
        call = {"id": f"c{self.calls}", "function": {"name": "look", "arguments": {"q": text}}}
        self._add(role="assistant", content="", tool_calls=[call])
        self._add(role="tool", tool_call_id=f"c{self.calls}", content=f"{text}#{self.count}#")

    @rule()
    def read(self) -> None:
        self.session.prefill(self.history)

    @rule(tokens=st.integers(1, 4), cancel=st.booleans())
    def answer(self, tokens: int, cancel: bool) -> None:
        reply = self.session.chat(
            self.history, max_tokens=tokens, temperature=1.0, seed=tokens, cancelled=lambda: cancel
        )
        if not cancel:
            self.count += 1
            self.history.append({**reply.message, "id": f"m{self.count}"})

    @precondition(lambda self: len(self.history) > 1)
    @rule(data=st.data())
    def retract(self, data: st.DataObject) -> None:
        eraser = data.draw(st.sampled_from(self.erasers))
        self.session.prefill(self.history)
        index = data.draw(st.integers(0, len(self.history) - 1))
        message = self.history[index]
        if data.draw(st.booleans()) and isinstance(message["content"], str) and len(message["content"]) > 1:
            start = data.draw(st.integers(0, len(message["content"]) - 1))
            target: Any = CharRange(message=message["id"], start=start, end=len(message["content"]))
            marks = [m for m in self._marks(message) if start <= message["content"].index(m)]
        else:
            target, marks = message["id"], self._marks(message)
        report = self.session.retract(target, eraser=eraser, keep_undo=data.draw(st.booleans()) and self.keeps_undo)
        if data.draw(st.integers(0, 3)) == 0 and not set(marks) & self.retracted:
            self.session.undo(report)
            return
        self.retracted |= set(marks)
        if data.draw(st.booleans()):
            self.history = report.tombstones(self.history)

    @precondition(lambda self: len(self.history) > 2)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.history.pop(data.draw(st.integers(1, len(self.history) - 1)))

    @rule()
    def fork(self) -> None:
        self.session = self.session.fork()

    @rule(tokens=st.integers(1, 40))
    def heal_a_chunk(self, tokens: int) -> None:
        branch = self.session.branches.latest
        if self.healing is not None and self.healing.branch is not branch:
            self.healing.close()
            self.healing = None
        if branch is not None:
            self.healing = self.healing or Healing(branch)
            if self.healing.step(tokens):
                assert branch.ledger.approximate_from is None or not branch.resident
                self.session.state.note_healed()

    @rule()
    def evict(self) -> None:
        self.session.evict()

    def _marks(self, message: dict[str, Any]) -> list[str]:
        parts = message["content"].split("#")
        return [f"#{parts[1]}#"] if len(parts) == 3 else []

    @invariant()
    def ledger_and_cells_agree(self) -> None:
        for name in self.memory.sessions() if hasattr(self, "memory") else ():
            for branch in self.memory.session(name).branches:
                if branch.resident:
                    assert branch.ledger.positions() == self.engine.positions(branch.seq)
                    assert branch.ledger.token_ids() == self.engine.tokens(branch.seq)

    @invariant()
    def retracted_text_is_not_in_the_cells(self) -> None:
        for branch in self.session.branches if hasattr(self, "session") else ():
            if branch.resident:
                text = self.engine.tokenizer.decode([i for i in self.engine.tokens(branch.seq) if i != STEERED])
                assert not [mark for mark in self.retracted if mark in text]

    @invariant()
    def an_exact_cache_equals_never_saw(self) -> None:
        branch = self.session.branches.latest if hasattr(self, "session") else None
        if (
            branch is None
            or not branch.resident
            or not branch.ledger.entries
            or branch.ledger.approximate_from is not None
            or lacks(self.engine, "score")
        ):
            return
        fresh = self.engine.create()
        self.engine.prefill(fresh, self.engine.tokens(branch.seq))
        torch.testing.assert_close(self.engine.score(branch.seq, [5]), self.engine.score(fresh, [5]), atol=2e-4, rtol=0)
        self.engine.free(fresh)

    def teardown(self) -> None:
        if self.healing is not None:
            self.healing.close()
        for name in self.memory.sessions():
            self.memory.delete_session(name)


class LedgerHistories(Cases):
    """Tests of random histories of sessions over the engine."""

    def test_any_history_of_a_session_keeps_ledger_and_cells_in_step(self, chat_case: Case) -> None:
        class HistoryOnEngine(SessionHistory):
            engine = chat_case.engine

        run_state_machine_as_test(
            HistoryOnEngine,
            settings=settings(
                max_examples=60,
                stateful_step_count=14,
                deadline=None,
                derandomize=True,
                phases=(Phase.explicit, Phase.generate),  # shrinking a history takes longer than reading it
                suppress_health_check=list(HealthCheck),
            ),
        )
