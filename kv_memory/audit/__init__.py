"""The audit log: who retracted what, when, why and with what result. It never holds the retracted text."""

from kv_memory.audit.attempt import Attempt, Outcome
from kv_memory.audit.errors import AuditError
from kv_memory.audit.log import AuditLog
from kv_memory.audit.records import AuditRow, Kind
from kv_memory.audit.verify import Problem

__all__ = ["Attempt", "AuditError", "AuditLog", "AuditRow", "Kind", "Outcome", "Problem"]
