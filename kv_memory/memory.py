"""Memory: many sessions over one engine; the object that users hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kv_memory.branch import Branch
from kv_memory.chat import ChatFormat
from kv_memory.engines.base import Engine
from kv_memory.erasers import get_eraser
from kv_memory.erasers.base import Eraser
from kv_memory.errors import ContextLengthError, ConversationError, TargetError, UnknownTargetError
from kv_memory.messages import parse_messages
from kv_memory.session import Session
from kv_memory.spans import Target
from kv_memory.targets import find


class Memory:
    """A model and the conversations that it has in mind.

    ```python
    memory = Memory()  # the embedded pocket model; or a path, a hub id, a ready engine
    session = memory.session("thread-1")
    reply = session.chat(messages)
    report = session.retract("call_1", reason="the API returned a wrong price")
    ```

    Sessions share the engine: one forward pass at a time. When their cells exceed `max_tokens`, the conversations used
    least recently lose theirs and are read again when they are needed; what was retracted from them stays retracted.
    """

    def __init__(
        self,
        model: str | Path | Engine | None = None,
        *,
        eraser: str | Eraser | None = None,
        max_tokens: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        """`eraser`: how to erase where a call does not say; by default as `default_eraser` chooses.

        `max_tokens`: cells of all sessions together; by default four times the model's context.

        Raises ModelError (a path that is not a model), UnsupportedModelError (its cache cannot be edited).
        """
        self.engine = model if isinstance(model, Engine) else _load(model, device, dtype)
        self.format = ChatFormat(self.engine.tokenizer)
        self.eraser: Eraser | None = None if eraser is None else get_eraser(eraser)
        self.max_tokens = max_tokens or 4 * self.engine.capabilities.max_positions
        self._sessions: dict[str, Session] = {}

    def session(self, session_id: str) -> Session:
        """The session of this id; a new one when there is none."""
        with self.engine.lock:
            if session_id not in self._sessions:
                self._sessions[session_id] = Session(self, session_id)
            return self._sessions[session_id]

    def new_session(self, session_id: str) -> Session:
        """A new session; ConversationError when the id is taken."""
        with self.engine.lock:
            if session_id in self._sessions:
                raise ConversationError(f"There is already a session {session_id!r}; choose another id.")
            return self.session(session_id)

    def sessions(self) -> list[str]:
        """The ids of all sessions."""
        return list(self._sessions)

    def forget(self, session_id: str) -> None:
        """Remove a session, its cells and what it knew; no error when there is none."""
        with self.engine.lock:
            session = self._sessions.pop(session_id, None)
            if session is not None:
                session.forget()

    def count_tokens(self, messages: Any, tools: list[dict[str, Any]] | None = None) -> int:
        """How many cells a conversation needs."""
        return sum(len(piece.ids) for pieces in self.format.encode(parse_messages(messages), tools) for piece in pieces)

    def make_room(self, tokens: int, keep: Branch) -> None:
        """Evict the branches used least recently until `tokens` more cells fit beside those of `keep`."""
        branches = [branch for session in self._sessions.values() for branch in session.branches if branch.resident]
        total = sum(branch.cells for branch in {id(b): b for b in [*branches, keep]}.values()) + tokens
        for branch in sorted(branches, key=lambda b: b.used):
            if total <= self.max_tokens:
                return
            if branch is not keep and not branch.busy:
                total -= branch.cells
                branch.evict()
        if total > self.max_tokens:
            raise ContextLengthError(
                f"The conversation needs {total:,} cells and this memory holds at most {self.max_tokens:,}; "
                "raise max_tokens or shorten the conversation."
            )

    def explain_unknown(self, session: Session, target: Target) -> UnknownTargetError:
        """The error for a target that this session does not hold; says so if another one does."""
        name = target if isinstance(target, str) else target.message
        for other in self._sessions.values():
            for branch in other.branches if other is not session else ():
                try:
                    find(branch.ledger, target)
                except TargetError:
                    continue
                return UnknownTargetError(
                    f"Nothing in session {session.id!r} has the id {name!r}; session {other.id!r} does: retract there."
                )
        return UnknownTargetError(f"Nothing in session {session.id!r} has the id {name!r}; spans() lists the ids.")


def _load(model: str | Path | None, device: str | None, dtype: str | None) -> Engine:
    from kv_memory.engines.transformers import TransformersEngine
    from kv_memory.pocket import model_path

    engine = TransformersEngine.load(model_path() if model is None else model, device=device, dtype=dtype)
    if model is None:
        engine.name = "pocket"
    return engine
