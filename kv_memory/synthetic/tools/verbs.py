"""The task of a request, in the grammatical form that its sentence needs."""

from __future__ import annotations

from typing import NamedTuple

from kv_memory.synthetic.tools.schemas import article
from kv_memory.synthetic.tools.words import forms


class Task(NamedTuple):
    """A verb, its object, and the arguments that are said with it."""

    verb: str
    thing: str = ""
    said: str = ""
    topic: str = ""
    """Sentence before the task."""

    @property
    def forms(self) -> tuple[str, str, str] | None:
        """Return the forms of its verb; see `words.forms`."""
        return forms(self.verb) if self.thing else None

    def words(self, kind: str) -> str:
        """Return the task as {do}, {doing}, {done} or {act}."""
        if kind == "do" or self.forms is None:
            verb = self.verb.replace("_", " ") if self.thing else self.verb
            return f"{verb} {self.thing}{self.said}" if self.thing else verb
        doing, done, noun = self.forms
        match kind:
            case "doing":
                return f"{doing} {self.thing}{self.said}"
            case "done":
                return done + self.said
            case _:
                return f"{article(noun)} {noun} of {self.thing}{self.said}"
