"""Rules: which messages of a conversation have turned out stale, wrong or hostile. A rule only looks and decides.

Text that is already empty is left alone, so that a rule decides the same whenever it is asked.
"""

from kv_memory.conversation.messages import ROLES, ToolCall
from kv_memory.policy.rules.base import Decision, Rule
from kv_memory.policy.rules.changed_document import ChangedDocument
from kv_memory.policy.rules.classifier import Classifier
from kv_memory.policy.rules.conversation import Conversation
from kv_memory.policy.rules.flagged_content import FlaggedContent
from kv_memory.policy.rules.invalidated import Invalidated
from kv_memory.policy.rules.settings import RuleSettings
from kv_memory.policy.rules.superseded import SupersededToolResult
from kv_memory.policy.rules.time_to_live import TimeToLive
from kv_memory.policy.rules.tool_error import ToolError

__all__ = [
    "ROLES",
    "ChangedDocument",
    "Classifier",
    "Conversation",
    "Decision",
    "FlaggedContent",
    "Invalidated",
    "Rule",
    "RuleSettings",
    "SupersededToolResult",
    "TimeToLive",
    "ToolCall",
    "ToolError",
]
