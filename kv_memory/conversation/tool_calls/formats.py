"""Formats in which models write tool calls: a table of markers, each with what reads the text after it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kv_memory.conversation.tool_calls.values import UnendedError, arguments_of, call_of, decode, name_of, typed

SegmentKind = Literal["content", "reasoning", "call", "invalid", "markup"]


@dataclass(frozen=True)
class Segment:
    """Characters [start, end) of what a model wrote, and what they are."""

    kind: SegmentKind
    start: int
    end: int
    name: str = ""
    """Name of the tool; empty unless `kind` is "call"."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    """Why it is no call that can be run; empty unless `kind` is "invalid"."""
    place: int = 0
    """First character of the message's content; 0 unless `kind` is "content" or "invalid"."""


Tools = Mapping[str, Mapping[str, Any]]
"""Schemas of the parameters of the tools that are offered, by name: of each parameter, by its name."""
Known = frozenset[str]
"""Markers that occur in the model's chat template or among the special tokens of its vocabulary."""


@dataclass(frozen=True)
class Context:
    """Facts about the model and the request that decide how an answer is read."""

    known: Known
    tools: Tools
    calls: bool = True
    """Whether the answer may call tools: if not, what looks like a call is content."""


class NotACallError(ValueError):
    """A marker that is ordinary text here."""


Reader = Callable[[str, int, Context], list[Segment]]
"""Function from a text that ends where the block ends, where its body begins, and the context to the calls in it and
what is between them. Raises ValueError where there is none, UnendedError where the block may end later, NotACallError
where it is none at all."""


@dataclass(frozen=True)
class Format:
    """A marker, what ends the block that it begins (None: the end of the answer), and what reads the block."""

    open: str
    close: str | None
    read: Reader
    named: bool = False
    """Whether the name of an offered tool right after the marker shows that a call is meant, whatever the model."""


def json_calls(text: str, at: int) -> tuple[list[Segment], int]:
    """Read JSON calls: one, a list of them, or several one after another. Returns them, and where they end.

    A value that is no call is an invalid one, and so is the rest of a text that is cut off. Raises ValueError where
    none is a call.
    """
    found: list[Segment] = []
    end = len(text)
    at = skip(text, at)
    listed = text[at : at + 1] == "["
    at = skip(text, at + listed)
    errors: list[ValueError] = []
    while at < end and (text[at] == "{" or (listed and text[at] != "]")):
        start = at
        try:
            value, at = decode(text, at)
        except ValueError as error:
            errors.append(error)
            found.append(Segment("invalid", start, end, error=str(error)))
            at = end
            break
        try:
            name, arguments = call_of(value)
            found.append(Segment("call", start, at, name, arguments))
        except ValueError as error:
            errors.append(error)
            found.append(Segment("invalid", start, at, error=str(error)))
        after = at
        at = skip(text, at, ",;")
        if at < end and text[at] != "{" and not listed:
            at = after
            break
    if listed and text[at : at + 1] == "]":
        at += 1
    if not any(segment.kind == "call" for segment in found):
        raise errors[0] if errors else ValueError("it is not JSON")
    return found, at


def skip(text: str, at: int, more: str = "") -> int:
    """Return the place of the first character from `at` on that is neither white space nor one of `more`."""
    while at < len(text) and (text[at].isspace() or text[at] in more):
        at += 1
    return at


def _json_block(text: str, at: int, context: Context) -> list[Segment]:
    """Read JSON calls that fill the block."""
    found, end = json_calls(text, at)
    if text[end:].strip():
        raise ValueError("something follows its JSON")
    return found


def _content(text: str, start: int) -> list[Segment]:
    start, end = skip(text, start), len(text.rstrip())
    return [Segment("content", start, end)] if start < end else []


def _tool_call(text: str, at: int, context: Context) -> list[Segment]:
    """Read what is between <tool_call> tags: JSON, Qwen3-Coder's XML, or GLM's keys and values."""
    start = skip(text, at)
    if text.startswith(FUNCTION, start):
        return _xml(text, start + len(FUNCTION), context, close="</function>")
    if text[start : start + 1] in ("{", "[", ""):
        return _json_block(text, start, context)
    if "<arg_key>" not in context.known and "<arg_key>" not in text[start:]:
        raise ValueError("it is not JSON")
    return _keys_and_values(text, start, context)


def _function(text: str, at: int, context: Context) -> list[Segment]:
    """Read <function=name> with JSON or parameters, without tags around it."""
    return _xml(text, at, context)


_XML_NAME = re.compile(r"([^<>\s]+)>")


def function_name(text: str, at: int) -> str | None:
    """Return the name at the beginning of `name>`; None where there is none."""
    found = _XML_NAME.match(text, at)
    return name_of(found[1]) if found else None


def _xml(text: str, at: int, context: Context, close: str = "") -> list[Segment]:
    """Read `name>` and then JSON, or parameters in tags; `close`: what ends it within the block."""
    name = function_name(text, at)
    if name is None:
        raise ValueError("it has no name")
    start, end = skip(text, at + len(name) + 1), len(text.rstrip())
    if close:
        if not text.endswith(close, 0, end):
            raise UnendedError("it has no end")
        end -= len(close)
    if text[start : start + 1] == "{":
        value, stop = decode(text[:end], start)
        if text[stop:end].strip():
            raise ValueError("something follows its JSON")
        return [Segment("call", at, len(text), name, arguments_of(value))]
    arguments = _pairs(text[:end], start, _PARAMETER, context.tools.get(name, {}))
    return [Segment("call", at, len(text), name, arguments)]


_PARAMETER = re.compile(r"<parameter=([^<>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_GLM_NAME = re.compile(r"([^<>\s]+)\s*(?=<arg_key>|$)")


def _keys_and_values(text: str, at: int, context: Context) -> list[Segment]:
    name = _GLM_NAME.match(text, at)
    if name is None:
        raise ValueError("it has no name")
    arguments = _pairs(text, name.end(), _ARGUMENT, context.tools.get(name[1], {}))
    if not arguments and name[1] not in context.tools:
        raise ValueError("it is neither JSON nor the name of a tool that is offered")
    return [Segment("call", at, len(text), name_of(name[1]), arguments)]


def _pairs(text: str, at: int, pair: re.Pattern[str], schemas: Mapping[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    at = skip(text, at)
    while at < len(text):
        found = pair.match(text, at)
        if found is None:
            opened = text.startswith(("<parameter=", "<arg_key>"), at)
            raise UnendedError("an argument has no end") if opened else ValueError("something is not in an argument")
        if found[1] in arguments:
            raise ValueError("one of its arguments comes twice")
        arguments[found[1]] = typed(found[2], schemas.get(found[1]))
        at = skip(text, found.end())
    return arguments


_MISTRAL_NAME = re.compile(r"\s*([^\s\[\]{}<>\"]+)\s*(?:\[CALL_ID\]\s*\w*\s*)?(?:\[ARGS\])?\s*(?=\{)")


def _named(text: str, begin: int, body: int) -> tuple[list[Segment], int]:
    """Read what Mistral's models write after a marker: a name and arguments, or JSON calls."""
    named = _MISTRAL_NAME.match(text, body)
    if named is None:
        return json_calls(text, body)
    value, end = decode(text, named.end())
    return [Segment("call", begin, end, name_of(named[1]), arguments_of(value))], end


def _listed(text: str, begin: int, body: int) -> tuple[list[Segment], int]:
    """Read JSON calls after a marker."""
    return json_calls(text, body)


def _rest(mark: str, read: Callable[[str, int, int], tuple[list[Segment], int]]) -> Reader:
    """Return a reader of the rest of an answer after a marker, which may come again; what follows calls is content.

    `read` is given the text, where what it reads begins, and where that begins after its marker.
    """

    def reader(text: str, at: int, context: Context) -> list[Segment]:
        found: list[Segment] = []
        start, error = at, ValueError("it is not JSON")
        while start < len(text):
            body = start + len(mark) if text.startswith(mark, start) else start
            begin = start if found else body
            following = text.find(mark, body)
            end = following if following >= 0 else len(text)
            try:
                calls, start = read(text, begin, body)
                found += calls
            except ValueError as failed:
                error, start = failed, end
                found.append(Segment("invalid", begin, len(text[:end].rstrip()), error=str(failed)))
            start = skip(text, start)
            if start < len(text) and not text.startswith(mark, start):
                following = text.find(mark, start)
                end = following if following >= 0 else len(text)
                found += _content(text[:end], start)
                start = end
        if not any(segment.kind == "call" for segment in found):
            raise error
        return found

    return reader


_FENCED = re.compile(r"\s*```\w*\s*\n?(.*?)\s*```\s*", re.DOTALL)
_KIMI_NAME = re.compile(r"\s*(?:functions\.)?(.*?)(?::\d+)?\s*", re.DOTALL)


def _deepseek(text: str, at: int, context: Context) -> list[Segment]:
    """Read a call of DeepSeek V3.1 (name, separator, JSON), or of V3 (a type, separator, name, fenced JSON)."""
    before, separator, after = text[at:].partition("<｜tool▁sep｜>")
    if not separator:
        raise ValueError("it has no separator")
    name, _, rest = after.strip().partition("\n")
    fenced = _FENCED.fullmatch(rest)
    if before.strip() == "function" and not name.startswith("{"):
        if fenced is None:
            raise UnendedError("its JSON has no end")
        return [_call(at, len(text), name, fenced[1])]
    return [_call(at, len(text), before, after)]


def _kimi(text: str, at: int, context: Context) -> list[Segment]:
    """Read a call of Kimi K2: `functions.name:0`, separator, JSON."""
    before, separator, after = text[at:].partition("<|tool_call_argument_begin|>")
    name = _KIMI_NAME.fullmatch(before)
    if not separator or name is None:
        raise ValueError("it has no separator")
    return [_call(at, len(text), name[1], after)]


def _call(start: int, end: int, name: str, arguments: str) -> Segment:
    written = arguments.strip()
    value, stop = decode(written) if written else (None, 0)
    if written[stop:].strip():
        raise ValueError("something follows its JSON")
    return Segment("call", start, end, name_of(name.strip()), arguments_of(value))


HERMES, FUNCTION = "<tool_call>", "<function="
LLAMA, GRANITE, MISTRAL = "<|python_tag|>", "<|tool_call|>", "[TOOL_CALLS]"
FORMATS = (
    Format(HERMES, "</tool_call>", _tool_call),
    Format("<tool_calls>", "</tool_calls>", _json_block),
    Format("<seed:tool_call>", "</seed:tool_call>", _tool_call),
    Format(FUNCTION, "</function>", _function, named=True),
    Format(LLAMA, None, _rest(LLAMA, _listed)),
    Format(GRANITE, None, _rest(GRANITE, _listed)),
    Format(MISTRAL, None, _rest(MISTRAL, _named)),
    Format("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", _deepseek),
    Format("<|tool_call_begin|>", "<|tool_call_end|>", _kimi),
)
AROUND = {
    "<｜tool▁call▁begin｜>": ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    "<|tool_call_begin|>": ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
}
"""Markers around all calls of an answer, by the marker of one."""
THOUGHTS = {"<think>": "</think>", "[THINK]": "[/THINK]"}
"""Markers around thoughts: what is between them is content, and no call."""
