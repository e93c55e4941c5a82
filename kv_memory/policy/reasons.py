"""The reasons for a retraction: one of a few categories, which a policy uses, and free text for people."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from kv_memory.arguments import check


class Category(StrEnum):
    """The category of a reason."""

    SECURITY = "security"
    """Hostile text, such as an injected instruction. Erased exactly, unless the policy says otherwise."""
    PRIVACY = "privacy"
    """Text that should not have been read, such as a secret or personal data."""
    STALE = "stale"
    """Text that was right once and no longer is."""
    ERROR = "error"
    """Text that was never right, or the report of a failure."""
    OTHER = "other"


class Reason(BaseModel):
    """The category of a reason, and the caller's words for it. Never holds the retracted text."""

    model_config = ConfigDict(frozen=True)

    category: Category = Category.OTHER
    text: str = ""

    @classmethod
    def of(cls, given: Reason | str) -> Reason:
        """Parse `security`, or `Security: free text`, in any case; a text with no category before it is `other`."""
        if isinstance(given, Reason):
            return given
        check("reason", given, str, "a text, such as 'stale: the price has changed', or a Reason")
        head, colon, rest = given.partition(":")
        category = head.strip().lower()
        if category not in set(Category):
            return cls(text=given)
        return cls(category=Category(category), text=rest.removeprefix(" ") if colon else "")

    def __str__(self) -> str:
        """Return the text that `of` parses to this reason."""
        if self.category is Category.OTHER and Reason.of(self.text) == self:
            return self.text
        return f"{self.category}: {self.text}" if self.text else str(self.category)
