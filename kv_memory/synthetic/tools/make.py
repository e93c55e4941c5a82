"""Random tools: names, parameters and their JSON schemas, and what they return.

Most are compositions of a verb, a noun and parameters that go with nothing in particular, so that a schema has to be
read. Test tools have verbs, nouns, parameters and whole schemas that no training tool has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kv_memory.synthetic.records import Field, Schema, make_noun, make_schema, plain
from kv_memory.synthetic.tools.parameters import TYPES, describe, make_parameter, write
from kv_memory.synthetic.tools.schemas import Parameter, Tool, article, group_of
from kv_memory.synthetic.tools.words import ID_VERBS, KNOWN, PLURAL_VERBS, TEST_KNOWN, TEST_VERBS, VERBS
from kv_memory.synthetic.values import Split, Values
from kv_memory.synthetic.vocabulary import MODIFIERS, TEST_MODIFIERS

NAME_STYLES = ("snake", "snake", "snake", "snake", "camel", "camel", "noun_verb", "kebab", "service", "pascal")
_KNOWN: dict[Split, tuple[str, ...]] = {"train": KNOWN, "test": TEST_KNOWN}
_KNOWN_SHARE = 0.3


def make_tool(values: Values, style: str = "snake", verb: str | None = None, noun: str | None = None) -> Tool:
    """Draw a tool; with this verb and noun, or with its own. `style` is one of `NAME_STYLES`."""
    if verb is None and noun is None and values.rng.random() < _KNOWN_SHARE:
        return _known_tool(values, style)
    verb = verb or _verb(values)
    noun = noun or _noun(values)
    case = "camel" if style in ("camel", "pascal") else "snake"
    first = group_of(verb)[0]
    has_id = values.rng.random() < (0.85 if first in ID_VERBS else 0.2)
    parts: list[Parameter] = []
    if has_id:
        name = values.pick((f"{_head(noun)}_id", f"{_head(noun)}_id", "id", "number", "code"))
        parts.append(Parameter(write(name.split("_"), case), "id"))
    for _ in range(values.rng.choices((0, 1, 2, 3, 4), (3, 3, 3, 2, 1) if has_id else (0, 4, 4, 3, 2))[0]):
        part = make_parameter(values, case)
        if not {plain((part.name,))} & {noun, *(plain((other.name,)) for other in parts)}:
            parts.append(part)
    if values.rng.random() < 0.15:
        parts = values.rng.sample(parts, len(parts))
    return _tool(values, style, verb, noun, parts)


def lookup_tool(schema: Schema, verb: str = "get") -> Tool:
    """Return a tool that returns a record of this schema by its id."""
    noun = schema.noun
    part = Parameter(schema.id_field, "id", description=f"The {plain((schema.id_field,))} of the {noun}")
    return Tool(
        f"{verb}_{noun}", group_of(verb), verb, noun, False, f"{verb.capitalize()} one {noun}.", (part,), schema
    )


def update_tool(values: Values, schema: Schema) -> Tool:
    """Return a tool that changes fields of a record of this schema; each may be left out."""
    parts = [Parameter(schema.id_field, "id")]
    for field in schema.fields:
        if len(field.path) == 1:
            type_ = TYPES.get(field.kind, ("string",))[0]
            parts.append(Parameter(field.path[0], field.kind, type_, required=False))
    noun, verb = schema.noun, values.pick(("update", "change", "edit"))
    returns = replace(schema, fields=(), child=None, child_field=None)
    text = f"{verb.capitalize()} fields of one {noun}."
    return Tool(f"{verb}_{noun}", group_of(verb), verb, noun, False, text, tuple(parts), returns)


def _verb(values: Values) -> str:
    draw = values.rng.random()
    if draw < 0.12:
        return values.english()
    groups = TEST_VERBS if values.split == "test" and draw < 0.6 else VERBS
    return values.pick(values.pick(groups))


def _noun(values: Values) -> str:
    noun = make_noun(values)
    if values.rng.random() < 0.15:
        return f"{values.pick(MODIFIERS if values.split == 'train' else TEST_MODIFIERS)} {noun}"
    return noun


def _known_tool(values: Values, style: str) -> Tool:
    head, _, body = values.pick(_KNOWN[values.split]).partition(" | ")
    verb, _, noun = head.partition(" ")
    case = "camel" if style in ("camel", "pascal") else "snake"
    parts = []
    for text in body.split("; "):
        name, kind, *natural = text.split(":", 2)
        key = write(name.rstrip("?").split("_"), case)
        type_ = {"list": "array"}.get(kind) or TYPES.get(kind, ("string",))[0]
        options = tuple(kind.split(",")) if "," in kind else ()
        description = describe(values, key, kind)
        part = Parameter(key, "enum" if options else kind, type_, not name.endswith("?"), description, options)
        parts.append(replace(part, natural=natural[0] if natural else "", item=values.pick(("word", "name"))))
    return _tool(values, style, verb, noun.replace("_", " "), parts)


def _tool(values: Values, style: str, verb: str, noun: str, parts: Sequence[Parameter]) -> Tool:
    group = group_of(verb)
    plural = group[0] in PLURAL_VERBS
    things = f"{noun}s" if plural else noun
    name, described = _name(values, style, verb, things), values.pick(group) if values.rng.random() < 0.4 else verb
    if values.rng.random() < 0.06:  # a name that says nothing: the description does
        name, described = write([values.word(), values.word()], style), verb
    form = values.pick(
        ("{} {}.", "{} {}", "Tool to {} {}.", "Use this to {} {}.", "{} {} in the system.", "Lets you {} {}.")
        if values.split == "train"
        else ("{} {}.", "Helps to {} {}.", "Call it to {} {}.")
    )
    text = form.format(described.replace("_", " "), things if plural else f"{article(noun)} {noun}")
    description = text[0].upper() + text[1:]
    return Tool(name, group, verb, noun, plural, description, tuple(parts), _returns(values, noun, parts))


def _name(values: Values, style: str, verb: str, things: str) -> str:
    words = [*verb.split("_"), *things.split()]
    match style:
        case "camel":
            return write(words, "camel")
        case "pascal":
            return "".join(word.capitalize() for word in words)
        case "noun_verb":
            return "_".join([*things.split(), *verb.split("_")])
        case "kebab":
            return "-".join(words)
        case "service":
            return f"{values.pick((_head(things), values.english()))}__{'_'.join(words)}"
        case _:
            return "_".join(words)


def _returns(values: Values, noun: str, parts: Sequence[Parameter]) -> Schema:
    schema = make_schema(values, values.rng.randint(1, 4))
    own = next((part.name for part in parts if part.kind == "id"), None)
    short = _head(noun)
    id_field = own or values.pick(("confirmation_id", "reference", "id", f"{short}_id", "request_id", "confirmation"))
    taken = {plain((name,)) for name in (id_field, *(part.name for part in parts))}
    fields = tuple(f for f in schema.fields if not taken & {plain(f.path[-1:]), plain(f.path[:1])})
    if not fields:
        fields = (Field((f"{values.word()}_status",), "status"),)
    return replace(schema, noun=short, id_field=id_field, fields=fields, id_place=0)


def _head(noun: str) -> str:
    return noun.rpartition(" ")[2]
