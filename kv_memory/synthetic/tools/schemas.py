"""What a tool is: its schema, and what is known of it for making requests and results."""

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
    """Of its values: one of `Values.value`, or id, text, enum, list, object."""
    type: str = "string"
    required: bool = True
    description: str | None = None
    options: tuple[str, ...] = ()
    """Of an enum."""
    item: str = "word"
    """The kind of a list's items."""
    fields: tuple[Parameter, ...] = ()
    """Of an object; all are required."""
    natural: str = ""
    """How a request says it without its name: "from {}"."""

    def schema(self) -> dict[str, Any]:
        """Its JSON schema."""
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
    """As it is written, and in plain words."""


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
    """What its result is: the fields that are new in it, under the id of what it is about."""

    def schema(self) -> dict[str, Any]:
        """The tool in the OpenAI form."""
        properties = {part.name: part.schema() for part in self.parameters}
        required = [part.name for part in self.parameters if part.required]
        parameters = {"type": "object", "properties": properties, "required": required}
        function: dict[str, Any] = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    @cached_property
    def leaves(self) -> dict[str, tuple[Leaf, ...]]:
        """By parameter, the places of its values."""
        found = {}
        for part in self.parameters:
            ends: list[tuple[Path, Parameter]] = [((part.name,), part)]
            if part.fields:
                ends = [((part.name, inner.name), inner) for inner in part.fields]
            found[part.name] = tuple(Leaf(path, end, (".".join(path), plain(path))) for path, end in ends)
        return found

    def mistakable(self, other: Tool) -> bool:
        """Whether a request for one could be taken for a request for the other."""
        if self.name == other.name:
            return True
        a, b = sorted((f" {self.noun} ", f" {other.noun} "), key=len)
        return self.group == other.group and (b.startswith(a) or b.endswith(a))


def group_of(verb: str) -> tuple[str, ...]:
    """The verbs that mean the same as this one."""
    return _GROUP_OF.get(verb, (verb,))


def article(noun: str) -> str:
    """The indefinite article."""
    return "an" if noun[0] in "aeio" else "a"
