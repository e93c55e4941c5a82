"""Echoes: later turns that repeat the erased value, which no edit of the span's cells can remove."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kv_memory.evaluation.baselines import NEVER_SAW, NO_ERASE
from kv_memory.evaluation.leakage.canaries import Seen, look
from kv_memory.evaluation.leakage.scenes import Canary, Messages, Scene
from kv_memory.evaluation.leakage.treatments import erased, holding
from kv_memory.sessions.memory import Memory

KINDS = ("assistant turn", "tool arguments", "summary")
CASCADES = ("no cascade", "cascade")
ECHO = "echo"


@dataclass(frozen=True)
class Echoed:
    """The results for one echo."""

    seen: dict[str, dict[str, Seen]]
    """Evidence of the canary, by cascade and treatment."""
    found: dict[str, bool]
    """Whether the cascade found the echo dependent, by eraser."""
    spared: dict[str, tuple[int, int]]
    """Number of the assistant's other turns that the cascade left, and their total, by eraser."""


def with_echo(scene: Scene, kind: str) -> Scene:
    """Return the scene with a turn at its end that repeats its first canary's value."""
    canary = scene.canaries[0]
    return replace(scene, messages=[*scene.messages, *_echo(canary, kind), *_afterwards()])


def _echo(canary: Canary, kind: str) -> Messages:
    said: dict[str, Any]
    if kind == "assistant turn":
        asked, said = canary.question, {"content": canary.value}
    elif kind == "summary":
        asked = "Sum up what we have so far."
        text = f"We looked up {canary.noun} {canary.id}. The {canary.key} of {canary.id} is {canary.value}."
        said = {"content": text}
    else:
        asked = f"Save a note with the {canary.key} of {canary.id}."
        arguments = json.dumps({"id": canary.id, canary.key.replace(" ", "_"): canary.value})
        call = {"id": "call_echo", "type": "function", "function": {"name": "save_note", "arguments": arguments}}
        said = {"content": "", "tool_calls": [call]}
    echo: Messages = [
        {"role": "user", "content": asked, "id": "echo_asked"},
        {"role": "assistant", **said, "id": ECHO},
    ]
    if kind == "tool arguments":
        echo.append({"role": "tool", "tool_call_id": "call_echo", "name": "save_note", "content": "saved", "id": "ok"})
    return echo


def _afterwards() -> Messages:
    return [
        {"role": "user", "content": "Thank you.", "id": "thanks"},
        {"role": "assistant", "content": "You are welcome.", "id": "welcome"},
    ]


def look_at_echo(memory: Memory, scene: Scene, kind: str, erasers: Sequence[str]) -> Echoed:
    """Measure the canary of a scene with an echo, erased with and without a cascade, beside never-saw of both."""
    scene = with_echo(scene, kind)
    canary = scene.canaries[0]
    seen: dict[str, dict[str, Seen]] = {cascade: {} for cascade in CASCADES}
    found, spared = {}, {}
    with holding(memory, scene.messages, scene.tools, [canary.target, ECHO]) as never:
        oracle = look(memory, never, scene, canary)
    with holding(memory, scene.messages, scene.tools) as read:
        for how in (NO_ERASE, *erasers):
            for cascade in CASCADES if how != NO_ERASE else CASCADES[:1]:
                with erased(read, [canary.target], how, "retract" if cascade == "cascade" else None) as session:
                    seen[cascade][how] = look(memory, session, scene, canary)
                    turns: Sequence[Any] = session.reports[-1].dependences if session.reports else ()
                if cascade == "cascade":
                    found[how] = any(turn.depends for turn in turns if turn.message_id == ECHO)
                    rest = [turn for turn in turns if turn.message_id != ECHO]
                    spared[how] = sum(not turn.depends for turn in rest), len(rest)
    for rows in seen.values():
        rows[NEVER_SAW] = oracle
    return Echoed(seen, found, spared)
