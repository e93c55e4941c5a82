"""Why something is retracted: one of a few categories, which a policy goes by, and free text for people."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Category(StrEnum):
    """What kind of reason a retraction has."""

    SECURITY = "security"
    """Hostile text, such as an injected instruction. Erased exactly, unless the policy says otherwise."""
    PRIVACY = "privacy"
    """Text that should not have been read, such as a secret or personal data."""
    STALE = "stale"
    """Right once, and no longer."""
    ERROR = "error"
    """Never right, or the report of a failure."""
    OTHER = "other"


class Reason(BaseModel):
    """The category of a reason, and what a caller says about it. Never the retracted text."""

    model_config = ConfigDict(frozen=True)

    category: Category = Category.OTHER
    text: str = ""

    @classmethod
    def of(cls, given: Reason | str) -> Reason:
        """Read `security`, or `security: free text`; a text that begins with no category is of category `other`."""
        if isinstance(given, Reason):
            return given
        head, colon, rest = given.partition(":")
        if head not in set(Category):
            return cls(text=given)
        return cls(category=Category(head), text=rest.removeprefix(" ") if colon else "")

    def __str__(self) -> str:
        """As `of` reads it."""
        if self.category is Category.OTHER and Reason.of(self.text) == self:
            return self.text
        return f"{self.category}: {self.text}" if self.text else str(self.category)
