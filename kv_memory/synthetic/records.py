"""Things with ids and fields: random schemas, their records, and the JSON and the facts of a record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kv_memory.synthetic.facts import Fact, Path
from kv_memory.synthetic.values import KINDS, Scalar, Values, as_text
from kv_memory.synthetic.vocabulary import (
    CHILDREN,
    GROUPS,
    HEADS,
    MODIFIERS,
    NOUNS,
    TEST_CHILDREN,
    TEST_GROUPS,
    TEST_HEADS,
    TEST_MODIFIERS,
    TEST_NOUNS,
)

_HEADS, _TEST_HEADS = tuple(HEADS), tuple(TEST_HEADS)


@dataclass(frozen=True)
class Field:
    """A field of a record: its path and the kind of its values."""

    path: Path
    kind: str


@dataclass(frozen=True)
class Schema:
    """The shape of one kind of record."""

    noun: str
    id_field: str
    id_style: str
    fields: tuple[Field, ...]
    id_place: int
    """Number of fields before the id."""
    child_field: str | None = None
    child: Schema | None = None
    keyed: bool = False
    """Whether children are in an object by id instead of a list."""


@dataclass
class Record:
    """One thing with an id and values for the fields of its schema."""

    schema: Schema
    id: str
    values: dict[Path, Scalar]
    children: list[Record] = field(default_factory=list)


def make_noun(values: Values) -> str:
    """Draw the name of a kind of thing."""
    draw = values.rng.random()
    if draw < 0.65:
        return values.pick(NOUNS if values.split == "train" else TEST_NOUNS)
    return values.english() if draw < 0.9 else values.word()


def make_key(values: Values, style: str) -> tuple[str, str]:
    """Draw a field name in a style of writing, and the kind of its values."""
    rng, train = values.rng, values.split == "train"
    draw = rng.random()
    if draw < 0.55:
        known = train or draw < 0.2
        heads = HEADS if known else TEST_HEADS
        head = values.pick(_HEADS if known else _TEST_HEADS)
        # Sometimes a kind that does not fit the name: a model has to read the value, not to guess it.
        kind = heads[head] if rng.random() < 0.85 else values.pick(KINDS)
    else:
        head, kind = values.english() if draw < 0.85 else values.word(), values.pick(KINDS)
    words = [head]
    while len(words) < 3 and rng.random() < 0.45:
        modifiers = MODIFIERS if train else TEST_MODIFIERS
        words.insert(0, values.pick(modifiers) if rng.random() < 0.6 else values.any_word())
    parts = "_".join(words).split("_")
    match style:
        case "camel":
            return parts[0] + "".join(part.capitalize() for part in parts[1:]), kind
        case "spaced":
            return " ".join(parts), kind
        case _:
            return "_".join(parts), kind


def make_schema(values: Values, fields: int, children: bool = False) -> Schema:
    """Draw a schema with about this many fields, some of them in groups."""
    rng = values.rng
    style = values.pick(("snake", "snake", "snake", "snake", "camel", "spaced"))
    noun = make_noun(values)
    groups, lists = (GROUPS, CHILDREN) if values.split == "train" else (TEST_GROUPS, TEST_CHILDREN)
    chosen: dict[str, Field] = {}
    if fields > 5 and rng.random() < 0.25:  # prices and seats, both by class
        keys = [make_key(values, style)[0] for _ in range(rng.randint(2, 3))]
        for _ in range(2):
            group, kind = make_key(values, style)[0], values.pick(KINDS)
            chosen |= {plain((group, key)): Field((group, key), kind) for key in keys}
    while len(chosen) < fields:
        key, kind = make_key(values, style)
        path: Path = (key,)
        if fields > 2 and rng.random() < 0.2:
            group = values.pick(groups) if rng.random() < 0.7 else values.any_word()
            path = (group, key)
            if rng.random() < 0.3:  # the same leaf in another group: prices.economy, seats.economy
                other = ((values.pick(groups) if rng.random() < 0.7 else values.any_word()), key)
                chosen.setdefault(plain(other), Field(other, kind))
        chosen.setdefault(plain(path), Field(path, kind))
    tops = {f.path[0] for f in chosen.values() if len(f.path) > 1}
    kept = tuple(f for f in chosen.values() if len(f.path) > 1 or f.path[0] not in tops)
    short = noun if style != "camel" else noun.capitalize()
    id_field = values.pick((f"{noun}_id", f"{noun}_id", "id", "id", "name", "number", f"{short}Id", "code"))
    if any(f.path[0] == id_field for f in kept):
        id_field = f"{noun}_key"
    taken = {id_field, *(f.path[0] for f in kept)}
    child_field = values.pick(lists) if rng.random() < 0.7 else values.any_word()
    while child_field in taken:
        child_field = values.word()
    return Schema(
        noun,
        id_field,
        values.ident_style(),
        tuple(rng.sample(kept, len(kept))),
        0 if rng.random() < 0.7 else rng.randint(1, len(kept)),
        child_field if children else None,
        make_schema(values, rng.randint(1, 7)) if children else None,
        rng.random() < 0.35,
    )


def make_record(values: Values, schema: Schema, children: int = 0) -> Record:
    """Draw a record of this schema, with new values."""
    record = Record(
        schema,
        values.ident(schema.id_style, schema.noun),
        {f.path: values.value(f.kind) for f in schema.fields},
    )
    if schema.child is not None:
        record.children = [make_record(values, schema.child) for _ in range(children)]
    return record


def as_object(record: Record, paths: Sequence[Path] | None = None) -> dict[str, Any]:
    """Return the record as a JSON object; only some of its fields if `paths` is given."""
    schema = record.schema
    result: dict[str, Any] = {}
    middle = len(record.values) // 2 if record.children else -1
    for index, (path, value) in enumerate(record.values.items()):
        if index == middle:
            _add_children(result, record)
        if index == schema.id_place:
            result[schema.id_field] = record.id
        if paths is not None and path not in paths:
            continue
        target = result
        for key in path[:-1]:
            target = target.setdefault(key, {})
        target[path[-1]] = value
    result.setdefault(schema.id_field, record.id)
    return result


def _add_children(result: dict[str, Any], record: Record) -> None:
    assert record.schema.child_field is not None
    objects = [as_object(child) for child in record.children]
    keyed = {child.id: item for child, item in zip(record.children, objects, strict=True)}
    result[record.schema.child_field] = keyed if record.schema.keyed else objects


def facts(record: Record, paths: Sequence[Path] | None = None) -> tuple[Fact, ...]:
    """Return the facts in the record's text; of its own fields only `paths` if given."""
    own = tuple(
        Fact(record.id, path, as_text(value)) for path, value in record.values.items() if paths is None or path in paths
    )
    return own + tuple(fact for child in record.children for fact in facts(child))


def plain(path: Path) -> str:
    """Return a path in plain words: `seats.firstClass` is "seats first class"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", " ".join(path))
    return words.replace("_", " ").lower()


def key_text(values: Values, schema: Schema, path: Path) -> str:
    """Return a field's name in a sentence."""
    rng = values.rng
    ambiguous = sum(f.path[-1] == path[-1] for f in schema.fields) > 1
    if len(path) > 1 and (ambiguous or rng.random() < 0.5):
        return values.pick((".".join(path), plain(path)))
    return path[-1] if rng.random() < 0.6 else plain(path[-1:])
