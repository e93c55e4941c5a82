"""Tools: their schemas, and what is known of them for making requests and results."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kv_memory.synthetic.facts import Path
from kv_memory.synthetic.records import Schema, plain
from kv_memory.synthetic.tools.words import TEST_VERBS, VERBS

_GROUP_OF = {verb: group for group in (*VERBS, *TEST_VERBS) for verb in group}


@dataclass(frozen=True)
class Parameter:
    """One argument that a tool takes."""

    name: str
    kind: str
    """Kind of its values: one that `Values.value` knows, or id, text, enum, list, object."""
    type: str = "string"
    required: bool = True
    description: str | None = None
    options: tuple[str, ...] = ()
    """Values of an enum."""
    item: str = "word"
    """Kind of a list's items."""
    fields: tuple[Parameter, ...] = ()
    """Parameters of an object; all are required."""
    natural: str = ""
    """Wording of the argument without its name, for a request: "from {}"."""

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""
        result: dict[str, Any] = {"type": self.type}
        if self.description:
            result["description"] = self.description
        match self.kind:
            case "enum":
                result["enum"] = list(self.options)
            case "list":
                result["items"] = {"type": "string"}
            case "object":
                result["properties"] = {part.name: part.schema() for part in self.fields}
                result["required"] = [part.name for part in self.fields]
        return result


@dataclass(frozen=True)
class Leaf:
    """A place in a call's arguments that holds one value."""

    path: Path
    parameter: Parameter
    names: tuple[str, str]
    """Names on the way to the value, as they are written and in plain words."""


@dataclass(frozen=True)
class Tool:
    """A tool and what is known of it for making requests and results."""

    name: str
    group: tuple[str, ...]
    """Verbs that mean the same; the first names what the tool does."""
    verb: str
    noun: str
    plural: bool
    description: str
    parameters: tuple[Parameter, ...]
    returns: Schema
    """Schema of the result's new fields, which come under the id of what the result is about."""

    def schema(self) -> dict[str, Any]:
        """Return the tool's schema in the OpenAI form."""
        properties = {part.name: part.schema() for part in self.parameters}
        required = [part.name for part in self.parameters if part.required]
        parameters = {"type": "object", "properties": properties, "required": required}
        function: dict[str, Any] = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    @cached_property
    def leaves(self) -> dict[str, tuple[Leaf, ...]]:
        """Return the places of its values, by parameter."""
        found = {}
        for part in self.parameters:
            ends: list[tuple[Path, Parameter]] = [((part.name,), part)]
            if part.fields:
                ends = [((part.name, inner.name), inner) for inner in part.fields]
            found[part.name] = tuple(Leaf(path, end, (".".join(path), plain(path))) for path, end in ends)
        return found

    def mistakable(self, other: Tool) -> bool:
        """Return whether a request for one tool could be taken for a request for the other."""
        if self.name == other.name:
            return True
        a, b = sorted((f" {self.noun} ", f" {other.noun} "), key=len)
        return self.group == other.group and (b.startswith(a) or b.endswith(a))


def group_of(verb: str) -> tuple[str, ...]:
    """Return the group of verbs that mean the same as this one."""
    return _GROUP_OF.get(verb, (verb,))


def article(noun: str) -> str:
    """Return the indefinite article for a word."""
    return "an" if noun[0] in "aeio" else "a"
