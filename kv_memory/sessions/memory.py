"""Memory: many sessions over one engine; the object that users hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from kv_memory.arguments import check, check_flag, check_function, check_session_id
from kv_memory.audit import AuditLog
from kv_memory.calibration.rates import MeasuredRates
from kv_memory.calibration.record import Calibration, beside, load
from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.conversation.messages import parse_messages
from kv_memory.conversation.originals import Originals
from kv_memory.conversation.spans import CharRange, Target, is_span_id, target_name
from kv_memory.conversation.targets import find
from kv_memory.engines.base import Engine
from kv_memory.engines.registry import open_engine
from kv_memory.erasers import get_eraser
from kv_memory.erasers.base import Eraser, PartialRecompute
from kv_memory.erasers.steer import Steer
from kv_memory.erasers.steering import steering_of
from kv_memory.errors import (
    ContextLengthError,
    ConversationError,
    ModelError,
    PolicyError,
    TargetError,
    UnknownTargetError,
)
from kv_memory.keys import Key
from kv_memory.policy.config import Heal, Policy
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.enforce import enforce
from kv_memory.sessions.heal import Healer
from kv_memory.sessions.report import RetractionReport
from kv_memory.sessions.session import Session
from kv_memory.trained.files import BESIDE, TrainedEraser, is_trained_eraser, open_eraser

ABANDONED = 1.0
"""Seconds without a new token after which a stream counts as abandoned."""


class Memory:
    """A model and the sessions whose conversations are in its cache.

    ```python
    memory = Memory()  # the embedded pocket model; or a path, a hub id, a .gguf file, a ready engine
    session = memory.session("thread-1")
    reply = session.chat(messages)
    report = session.retract("call_1", reason="the API returned a wrong price")
    ```

    Sessions share the engine: one forward pass at a time. When their cells exceed `cache_tokens`, the conversations
    used least recently lose theirs and are prefilled again when they are needed; what was retracted from them stays
    retracted.
    """

    def __init__(
        self,
        model: str | Path | Engine | None = None,
        *,
        eraser: str | Path | Eraser | None = None,
        calibration: Calibration | str | Path | None = None,
        cache_tokens: int | None = None,
        policy: Policy | str | Path | None = None,
        audit: AuditLog | str | Path | None = None,
        heal: Heal | None = None,
        on_heal: Callable[[RetractionReport], object] | None = None,
        device: str | None = None,
        dtype: str | None = None,
        context_length: int | None = None,
        checkpoint_mb: float | None = None,
        checkpoint_device: str | None = None,
        editable_tokens: int | None = None,
    ) -> None:
        """Load the model, and the trained eraser if there is one.

        `eraser`: the eraser for calls that name none; by default as `policy.choose` chooses. A trained eraser, given by
        its directory, .gguf file or hub id, is loaded into the engine; then its calibration chooses, or `steer` is the
        default where it has none. A trained eraser in the folder `eraser` of the model's directory, as the pocket model
        has it, is loaded when `steer` is first asked for by name.

        `calibration`: a calibration of this model, or its file; by default the trained eraser's, or the
        calibration.json in the model's directory, or MODEL.calibration.json beside MODEL.gguf, if there is one. A ready
        engine keeps the probe layers that it has.

        `cache_tokens`: number of cells that all sessions together may hold; by default four times the model's context.

        `policy`: the rules for how retractions are made and who may ask for them; a Policy, or its .toml or .yaml file.

        `audit`: the log to which each retraction is written, or its file. What it says was retracted in a session stays
        retracted in this process too. A retraction that cannot be written down is not made.

        `context_length`: longest conversation in tokens, by default what the model says; a GGUF model's takes its
        memory at once. Not for a ready engine.

        `checkpoint_mb`: megabytes for the checkpoints of all sessions, for a model with recurrent layers (Qwen3.5,
        LFM2, Granite 4, ...): copies of their states, from which the conversation goes on after a retraction; by
        default 512. `checkpoint_device`: where they are kept, such as "cpu"; by default where the model is.

        `editable_tokens`: for a model with sliding windows, number of last tokens of a conversation that can be erased
        in place; by default all. Layers with a window give back what they keep beyond, and earlier text is erased by
        prefilling the conversation from its beginning.

        `heal`: when an approximate erasure is made exact. "idle": in idle time, in chunks that give way to calls, where
        `cache_tokens` has room for a copy. "now": before the call that erased returns. "never": not at all. By default
        as the policy says. `on_heal` is called, in the healing thread or in that of the call that healed, with the
        report of each retraction that was made exact.

        Raises ModelError (a path that is not a model, or an eraser that is not this model's), UnsupportedModelError
        (its cache can neither be edited nor cut back), UnsupportedOperationError (the engine lacks what the eraser
        needs), ArgumentError (a wrong `checkpoint_mb`), KVMemoryError (a calibration that cannot be read, or of a model
        of another shape), PolicyError, AuditError.
        """
        if heal is not None and heal not in get_args(Heal):
            raise PolicyError(f"There is no heal={heal!r}; give one of {', '.join(get_args(Heal))}.")
        if policy is not None and not isinstance(policy, (str, Path, Policy)):
            raise PolicyError(
                f"A policy is a Policy or its file, not a {type(policy).__name__}; use Policy.of(values)."
            )
        text, path = (str, NoneType), (str, Path, NoneType)
        known = "a path, hub id or ready engine; engine_over makes one of a loaded model"
        check("model", model, (*path, Engine), known)
        check(
            "eraser",
            eraser,
            (*path, Eraser),
            "the name of an eraser, the path or hub id of a trained one, or an Eraser",
        )
        check("calibration", calibration, (*path, Calibration), "a Calibration or its file")
        check("audit", audit, (*path, AuditLog), "an AuditLog or its file")
        check("device", device, text, "a name that torch knows, such as 'cpu'")
        check("dtype", dtype, text, "a name that torch knows, such as 'bfloat16'")
        check("context_length", context_length, (int, NoneType), "a number of tokens")
        check("editable_tokens", editable_tokens, (int, NoneType), "a number of tokens")
        check("cache_tokens", cache_tokens, (int, NoneType), "the number of cells that may be held")
        check_function("on_heal", on_heal)
        asked = {
            "device": device,
            "dtype": dtype,
            "context_length": context_length,
            "checkpoint_mb": checkpoint_mb,
            "checkpoint_device": checkpoint_device,
            "editable_tokens": editable_tokens,
        }
        for setting in ("context_length", "checkpoint_mb", "checkpoint_device", "editable_tokens"):
            if asked[setting] is not None and isinstance(model, Engine):
                raise ModelError(f"A ready engine has a {setting} already; give it to the engine.")
        if cache_tokens is not None and cache_tokens < 1:
            raise PolicyError(f"cache_tokens is the number of cells that may be held, at least 1, not {cache_tokens}.")
        trained = open_eraser(eraser) if isinstance(eraser, (str, Path)) and is_trained_eraser(eraser) else None
        if calibration is None and trained is not None:
            calibration = trained.calibration
        if calibration is None and not isinstance(model, Engine):
            file = beside(_path(model))
            calibration = file if file.is_file() else None
        own = None if isinstance(model, Engine) else _path(model) / BESIDE
        self._own_eraser = own if own is not None and own.is_dir() else None
        self.calibration = load(Path(calibration)) if isinstance(calibration, (str, Path)) else calibration
        self.engine = model if isinstance(model, Engine) else _load(model, self.calibration, trained, asked)
        self.format = ChatFormat(self.engine.tokenizer)
        self.eraser: Eraser | None = None
        if trained is not None:
            trained.load(self.engine)
            self.eraser = None if trained.calibration else Steer()
        elif eraser is not None:
            self.eraser = self.load_eraser(eraser if isinstance(eraser, Eraser) else str(eraser))
        self.cache_tokens = cache_tokens or 4 * self.engine.max_positions
        self.policy = Policy.load(policy) if isinstance(policy, (str, Path)) else policy or Policy()
        self.audit = AuditLog(audit) if isinstance(audit, (str, Path)) else audit
        if self.audit is not None:
            self.audit.close_unfinished()
        self.originals = Originals.of(self.audit.key if self.audit is not None else Key())
        self.heal = heal
        self.on_heal = on_heal
        self.healer = Healer(self.engine.lock, self._to_heal, self._answering, self._has_room, self._healed)
        self._sessions: dict[str, Session] = {}

    def load_eraser(self, eraser: str | Eraser) -> Eraser:
        """Return the eraser of this name (see `get_eraser`), ready to run on the engine.

        A budget that is a time or a target means what the calibration measured, unless the eraser has rates of its own;
        the eraser that is given stays as it is. When an eraser that steers is first asked for, the trained eraser in
        the model's directory is loaded. Raises UnsupportedOperationError where the engine lacks what the eraser needs.
        """
        found = get_eraser(eraser)
        if self._own_eraser is not None and "steering" in found.lacking(self.engine):
            with self.engine.lock:
                if steering_of(self.engine) is None:  # another thread may have loaded it meanwhile
                    open_eraser(self._own_eraser).load(self.engine)
        found.check(self.engine)
        if self.calibration is not None and isinstance(found, PartialRecompute) and found.rates is None:
            return found.with_rates(MeasuredRates(self.calibration))
        return found

    def session(self, session_id: str) -> Session:
        """Return the session with this id; a new one when there is none."""
        check_session_id(session_id)
        with self.engine.lock:
            if session_id not in self._sessions:
                self._sessions[session_id] = Session(self, session_id)
            return self._sessions[session_id]

    def new_session(self, session_id: str) -> Session:
        """Create a session; ConversationError when the id is taken."""
        check_session_id(session_id)
        with self.engine.lock:
            if session_id in self._sessions:
                raise ConversationError(f"There is already a session {session_id!r}; choose another id.")
            return self.session(session_id)

    def get(self, session_id: str) -> Session | None:
        """Return the session with this id, or None, without waiting for the engine."""
        check_session_id(session_id)
        return self._sessions.get(session_id)

    def sessions(self) -> list[str]:
        """Return the ids of all sessions."""
        return list(self._sessions)

    def delete_session(self, session_id: str) -> None:
        """Delete a session, its cells and its redactions; no error when there is none.

        What an audit log says was retracted in the session stays in the log.
        """
        check_session_id(session_id)
        with self.engine.lock:
            session = self._sessions.pop(session_id, None)
            if session is not None:
                session.evict()

    def count_tokens(self, messages: Any, tools: list[dict[str, Any]] | None = None, *, answer: bool = True) -> int:
        """Return the number of tokens of a conversation as `chat` reads it in a new session: one cell each.

        They are all of its `Usage` but the generated ones: the list of tools, what the chat template writes, and what
        makes the assistant speak; without `answer` that is left out, as `prefill` does it. Nothing is read into the
        cache. Before a model is loaded, `TokenCounter` counts the same. Raises ConversationError, ArgumentError.
        """
        return self.format.count(parse_messages(messages), tools, answer=check_flag("answer", answer))

    def make_room(self, tokens: int, keep: Branch) -> None:
        """Evict the branches used least recently until `tokens` more cells fit beside those of `keep`.

        Raises ContextLengthError when they cannot fit.
        """
        branches = [branch for session in self._sessions.values() for branch in session.branches if branch.resident]
        held = {id(branch): branch for branch in [*branches, keep]}.values()
        evictable = sorted((b for b in held if b is not keep and not b.busy), key=lambda b: b.used)
        total = sum(branch.cells for branch in held) + tokens
        if total - sum(branch.cells for branch in evictable) > self.cache_tokens:
            raise ContextLengthError(
                f"The conversation needs {keep.cells + tokens:,} cells and this memory holds at most "
                f"{self.cache_tokens:,}; raise cache_tokens or shorten the conversation."
            )
        for branch in evictable:
            if total <= self.cache_tokens:
                return
            total -= branch.cells
            branch.evict()

    def _branches(self) -> Iterator[tuple[Session, Branch]]:
        return ((session, branch) for session in list(self._sessions.values()) for branch in session.branches)

    def _answering(self) -> bool:
        """Return whether an answer is on its way; a stream from which nobody reads holds back no healing."""
        return any(branch.busy and time.monotonic() - branch.active < ABANDONED for _, branch in self._branches())

    def _to_heal(self) -> list[Branch]:
        """Return the branches to heal, the one that was used last first, those that have room for a copy before others.

        Each is checked for what is retracted, since its cells are about to be copied and replaced.
        """
        found = [
            (session, branch)
            for session, branch in self._branches()
            if branch.resident and branch.heals and not branch.busy and branch.ledger.approximate_from is not None
            if session.state.heals and not session.state.kept.holds(branch)
        ]
        for session, branch in found:
            enforce(session.state, branch)
        return sorted((branch for _, branch in found), key=lambda branch: (not self._has_room(branch), -branch.used))

    def _has_room(self, branch: Branch) -> bool:
        """Return whether a copy of the branch fits beside all that is held."""
        held = sum(other.cells for _, other in self._branches() if other.resident)
        return held + branch.cells <= self.cache_tokens

    def _healed(self, healed: Branch) -> None:
        for session, branch in list(self._branches()):
            if branch is healed:
                session.state.note_healed()

    def explain_unknown(self, session_id: str, target: Target) -> UnknownTargetError:
        """Return the error for a target that this session does not hold; it says so if another session does."""
        whole, part = target, ""
        if isinstance(target, CharRange):
            whole, part = target.message, f", whose characters {target.start} to {target.end} are named"
        name = target_name(whole)
        nothing = f"Nothing in session {session_id!r} has the id {name!r}{part}"
        if is_span_id(name):  # each session has its own
            return UnknownTargetError(f"{nothing}; spans() lists the ids, find(..., messages) those to be read.")
        for other in self._sessions.values():
            for branch in other.branches if other.id != session_id else ():
                try:
                    find(branch.ledger, other.state.identified(whole))
                except TargetError:
                    continue
                return UnknownTargetError(
                    f"{nothing}; session {other.id!r} does: retract there, or name the conversation with messages= "
                    "where this session has not read it."
                )
        return UnknownTargetError(f"{nothing}; spans() lists the ids.")


def _path(model: str | Path | None) -> Path:
    from kv_memory.pocket import model_path

    return model_path() if model is None else Path(model).expanduser()


def _load(
    model: str | Path | None,
    calibration: Calibration | None,
    trained: TrainedEraser | None,
    asked: Mapping[str, Any],
) -> Engine:
    name = "pocket" if model is None else str(model)

    def check(config: dict[str, Any]) -> None:
        if calibration is not None:
            calibration.check(config)
        if trained is not None:
            trained.check(name, config)

    layers = calibration.influence.probe_layers if calibration else None
    settings: dict[str, Any] = {**asked, "check": check, "probe_layers": layers}
    return open_engine(_path(None), name=name, **settings) if model is None else open_engine(model, **settings)
