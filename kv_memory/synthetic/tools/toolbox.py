"""The tools of one conversation, and requests whose one right call, or whose reply without a call, is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from kv_memory.synthetic.facts import Path
from kv_memory.synthetic.layouts import dump, wrap
from kv_memory.synthetic.records import Record, as_object, key_text
from kv_memory.synthetic.tools.make import NAME_STYLES, make_tool
from kv_memory.synthetic.tools.phrases import tool_phrases
from kv_memory.synthetic.tools.requests import Wording
from kv_memory.synthetic.tools.schemas import Parameter, Tool
from kv_memory.synthetic.tools.spelling import Argument, Given
from kv_memory.synthetic.tools.talk import NO_TOOL, chat
from kv_memory.synthetic.values import Values, as_text

_SIMILAR = 0.4
"""Share of tools that have the verb or the noun of another."""


class ToolRequest(NamedTuple):
    """A user's words and the one right call."""

    text: str
    name: str
    arguments: dict[str, Any]
    asked: Path | None
    """Field of the result that the user wants to know; the answer after the result is its value alone."""

    @property
    def written(self) -> str:
        """Return the arguments as the call has them."""
        return json.dumps(self.arguments, ensure_ascii=False)


class ToolResult(NamedTuple):
    """The result of a tool."""

    content: str
    record: Record
    """Record that the content holds."""

    def answer(self, asked: Path) -> str:
        """Return the value of a field in the assistant's words."""
        return as_text(self.record.values[asked])


class Toolbox:
    """A set of about `count` tools, none of which can be taken for another in a request. `held_out` as in
    `tool_phrases`."""

    def __init__(self, values: Values, count: int, held_out: bool | None = None) -> None:
        self.values = values
        self.held_out = held_out
        self.style = values.pick(NAME_STYLES)
        self._phrases = tool_phrases(values.split, held_out)
        self._tools: dict[str, Tool] = {}
        while len(self._tools) < count:
            self.add(self._next())

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Return the tools' schemas in the OpenAI form."""
        return [tool.schema() for tool in self._tools.values()]

    def add(self, tool: Tool) -> None:
        """List a tool; one that could be mistaken for it is removed."""
        self._tools = {name: other for name, other in self._tools.items() if not tool.mistakable(other)}
        self._tools[tool.name] = tool

    def request(self, name: str | None = None, given: Mapping[str, Argument] | None = None) -> ToolRequest:
        """Make a request for one of the tools, or for this one; `given`: values of its parameters, not to be drawn."""
        values, random = self.values, self.values.rng.random
        tool = self._tools[name] if name else values.pick(list(self._tools.values()))
        arguments, said = self._draw(tool, given or {})
        asked = values.pick(tool.returns.fields).path if tool.returns.fields and random() < 0.4 else None
        wanted = key_text(values, tool.returns, asked) if asked else None
        text = Wording(values, self._phrases).say(tool, said, wanted)
        return ToolRequest(text, tool.name, arguments, asked)

    def result(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Make the result of this call: a record with the id that the call names or a new one, and some arguments."""
        values, tool = self.values, self._tools[name]
        schema = tool.returns
        given = arguments.get(schema.id_field)
        record = Record(schema, values.ident(schema.id_style, schema.noun) if given is None else as_text(given), {})
        share = 1 if tool.group[0] == "update" else 0.4
        for key, value in arguments.items():
            if key != schema.id_field and isinstance(value, str | int | float) and values.rng.random() < share:
                record.values[(key,)] = value
        record.values.update({field.path: values.value(field.kind) for field in schema.fields})
        return ToolResult(dump(values, wrap(values, schema.noun, as_object(record))), record)

    def chat(self) -> tuple[str, str]:
        """Draw a remark that needs no tool, and the reply."""
        return chat(self.values, self.held_out)

    def cannot(self) -> tuple[str, str]:
        """Make a request for something that no listed tool is about, and the reply."""
        nouns = {word for tool in self._tools.values() for word in tool.noun.split()}
        while True:
            tool = make_tool(self.values, self.style)
            if not nouns & set(tool.noun.split()):
                return Wording(self.values, self._phrases).say(tool, self._draw(tool, {})[1]), NO_TOOL

    def _next(self) -> Tool:
        values = self.values
        if not self._tools or values.rng.random() > _SIMILAR:
            return make_tool(values, self.style)
        other = values.pick(list(self._tools.values()))
        if values.rng.random() < 0.5:
            return make_tool(values, self.style, noun=other.noun)
        return make_tool(values, self.style, verb=other.verb)

    def _draw(self, tool: Tool, given: Mapping[str, Argument]) -> tuple[dict[str, Any], list[Given]]:
        """Draw the arguments of a call; also return, by place, those that the request has to say."""
        arguments: dict[str, Any] = {}
        said: list[Given] = []
        for part in tool.parameters:
            if part.name not in given and not part.required and self.values.rng.random() < 0.5:
                continue
            inner: dict[str, Any] = {}
            for leaf in tool.leaves[part.name]:
                end = leaf.parameter
                inner[end.name] = given[part.name] if part.name in given else self._value(tool, end)
                said.append((leaf, inner[end.name]))
            arguments[part.name] = inner if part.fields else inner[part.name]
        return arguments, said

    def _value(self, tool: Tool, part: Parameter) -> Argument:
        values = self.values
        match part.kind:
            case "id":
                return values.ident(tool.returns.id_style, tool.returns.noun)
            case "enum":
                return values.pick(part.options)
            case "text":
                text = " ".join([values.any_word() for _ in range(values.rng.randint(3, 7))])
                return text if values.rng.random() < 0.5 else text.capitalize()
            case "list":
                items = [as_text(values.value(part.item)) for _ in range(values.rng.randint(1, 3))]
                return list(dict.fromkeys(items))
        value = values.value(part.kind)
        if part.type == "string":
            return as_text(value)
        return int(value) if isinstance(value, str) else value
