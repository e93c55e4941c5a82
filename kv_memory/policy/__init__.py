"""Retraction policies: when to retract something (rules), how to erase it (choose), and who may ask for it
(authority)."""

from kv_memory.errors import Refusal
from kv_memory.policy.authority import Authority, Claim, claims
from kv_memory.policy.choice import Candidate, Choice
from kv_memory.policy.choose import EXACT_UP_TO, choose, default_eraser
from kv_memory.policy.config import Cascade, CategoryRule, Handling, Heal, Policy
from kv_memory.policy.reasons import Category, Reason
from kv_memory.policy.rules import Decision, Rule

__all__ = [
    "EXACT_UP_TO",
    "Authority",
    "Candidate",
    "Cascade",
    "Category",
    "CategoryRule",
    "Choice",
    "Claim",
    "Decision",
    "Handling",
    "Heal",
    "Policy",
    "Reason",
    "Refusal",
    "Rule",
    "choose",
    "claims",
    "default_eraser",
]
