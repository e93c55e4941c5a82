"""Retractions that a policy's rules decide on for a conversation."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from kv_memory.conversation.ledger import Ledger
from kv_memory.conversation.spans import Target
from kv_memory.conversation.tombstones import tombstones
from kv_memory.errors import RefusedError
from kv_memory.policy.requests import Request, Requests
from kv_memory.policy.rules import Decision
from kv_memory.sessions.report import RetractionReport
from kv_memory.sessions.retract import authorise, retract
from kv_memory.sessions.retraction_plan import plan_retraction
from kv_memory.sessions.state import SessionState


def apply_policy(state: SessionState, messages: Sequence[Mapping[str, Any]]) -> list[RetractionReport]:
    """Apply the policy's rules to a conversation; see `Session.apply_policy`. Callers hold the engine's lock."""
    rules = state.host.policy.rules()
    if not rules:
        return []
    state.records.refresh()
    left = tombstones(messages, state.records.redactions)
    decided: dict[object, Decision] = {}
    for decision in (decision for rule in rules for decision in rule.decide(left)):
        decided.setdefault((decision.message, decision.chars), decision)  # the first of several rules counts
    requests: Requests[Target] = Requests()
    for decision in decided.values():
        requests.add(decision.by, decision.category, decision.target, decision.reason)
    given = state.given(left) if requests else None
    reports = []
    for request in requests:
        started = time.perf_counter()
        targets: list[Target] = []
        for target in request.targets:
            if _may(state, request, target, given):
                targets.append(target)
        if targets:
            plan = plan_retraction(state, targets, reason=request.reason, by=request.by, messages=left)
            reports.append(retract(state, plan, started))
    return reports


def _may(state: SessionState, request: Request[Target], target: Target, given: Ledger | None) -> bool:
    try:
        authorise(state, request.by, state.resolve([target], given), [target], request.reason)
    except RefusedError as error:
        warnings.warn(f"A rule's decision was not carried out: {error}", stacklevel=4)
        return False
    return True
