"""RetractionRun out what a policy's rules decide about a conversation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from kv_memory.conversation.ledger import Ledger
from kv_memory.conversation.messages import parse_messages
from kv_memory.conversation.redactions import tombstones
from kv_memory.errors import RefusedError
from kv_memory.policy.reasons import Category, Reason
from kv_memory.policy.rules import Decision
from kv_memory.sessions.report import RetractionReport
from kv_memory.sessions.retract import RetractingSession


class PolicedSession(RetractingSession):
    """A session of a memory that may have a policy."""

    def apply_policy(self, messages: Sequence[Mapping[str, Any]]) -> list[RetractionReport]:
        """Retract what the policy's rules (`retract` in its file) name in this conversation, read or not.

        To be called before a `chat` with the same messages: what it has not read it will not read. What is retracted
        already is left alone, so that it can be called each time. There is one retraction for each category of reason
        and each who asks: the policy, or a tool. Of several rules that name the same the first counts. What these may
        not retract stays, with a warning and a row in the audit log.
        """
        rules = self._memory.policy.rules()
        if not rules:
            return []
        with self._engine.lock:
            self._recall(parse_messages(messages))
            left = tombstones(messages, self._redactions)
            decided: dict[object, Decision] = {}
            for decision in (decision for rule in rules for decision in rule.decide(left)):
                decided.setdefault((decision.message, decision.chars), decision)
            wishes: dict[tuple[str, Category], list[Decision]] = {}
            for decision in decided.values():
                wishes.setdefault((decision.by, decision.category), []).append(decision)
            reports = []
            given = self._given(left if wishes else None)
            for (by, category), decisions in wishes.items():
                reason = Reason(category=category, text="; ".join(dict.fromkeys(d.reason for d in decisions)))
                targets = [d.target for d in decisions if self._may(d, reason, given)]
                if targets:
                    reports.append(self.retract(*targets, reason=reason, by=by, messages=left))
            return reports

    def _may(self, decision: Decision, reason: Reason, given: Ledger | None) -> bool:
        try:
            resolved = self._resolve([decision.target], given)
            self._check_authority(decision.by, resolved, [decision.target], reason)
        except RefusedError as error:
            warnings.warn(f"A rule's decision was not carried out: {error}", stacklevel=4)
            return False
        return True
