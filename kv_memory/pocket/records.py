"""Things with ids and fields: random schemas, their records, and the JSON and the facts of a record."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kv_memory.pocket.facts import Fact, Path
from kv_memory.pocket.phrases import Phrases
from kv_memory.pocket.values import KINDS, Scalar, Values, as_text


@dataclass(frozen=True)
class Field:
    """Where a value stands in a record, and its kind."""

    path: Path
    kind: str


@dataclass(frozen=True)
class Schema:
    """The shape of one kind of record."""

    noun: str
    id_field: str
    id_style: str
    fields: tuple[Field, ...]
    id_first: bool
    child_field: str | None = None
    child: Schema | None = None
    keyed: bool = False
    """Children stand in an object by id, not in a list."""


@dataclass
class Record:
    """One thing."""

    schema: Schema
    id: str
    values: dict[Path, Scalar]
    children: list[Record] = field(default_factory=list)


def make_key(values: Values, phrases: Phrases, style: str) -> tuple[str, str]:
    """A field name in a style of writing, and the kind of its values."""
    rng = values.rng
    head = values.pick(tuple(phrases.heads))
    # Now and then a kind that does not go with the name: what stands there counts, not what is plausible.
    kind = phrases.heads[head] if rng.random() < 0.9 else values.pick(tuple(KINDS))
    draw = rng.random()
    if draw < 0.45:
        words = [head]
    elif draw < 0.8:
        words = [values.pick(phrases.modifiers), head]
    elif draw < 0.9:
        words = [values.pick(phrases.modifiers), values.pick(phrases.modifiers), head]
    else:
        words = [values.word(), head]
    parts = "_".join(words).split("_")
    match style:
        case "camel":
            return parts[0] + "".join(part.capitalize() for part in parts[1:]), kind
        case "spaced":
            return " ".join(parts), kind
        case _:
            return "_".join(parts), kind


def make_schema(values: Values, phrases: Phrases, fields: int, children: bool = False) -> Schema:
    """A random schema with about this many fields, some of them in groups."""
    rng = values.rng
    style = values.pick(("snake", "snake", "snake", "snake", "camel", "spaced"))
    noun = values.pick(phrases.nouns)
    chosen: dict[str, Field] = {}
    while len(chosen) < fields:
        key, kind = make_key(values, phrases, style)
        path: Path = (key,)
        if fields > 2 and rng.random() < 0.2:
            group = values.pick(phrases.groups)
            path = (group, key)
            if rng.random() < 0.3:  # the same leaf in another group: prices.economy, seats.economy
                other = (values.pick(phrases.groups), key)
                chosen.setdefault(plain(other), Field(other, kind))
        chosen.setdefault(plain(path), Field(path, kind))
    tops = {f.path[0] for f in chosen.values() if len(f.path) > 1}
    kept = tuple(f for f in chosen.values() if len(f.path) > 1 or f.path[0] not in tops)
    short = noun if style != "camel" else noun.capitalize()
    id_field = values.pick((f"{noun}_id", f"{noun}_id", "id", "id", "name", "number", f"{short}Id", "code"))
    if any(f.path[0] == id_field for f in kept):
        id_field = f"{noun}_key"
    return Schema(
        noun,
        id_field,
        values.ident_style(),
        tuple(rng.sample(kept, len(kept))),
        rng.random() < 0.85,
        values.pick(phrases.children) if children else None,
        make_schema(values, phrases, rng.randint(1, 4)) if children else None,
        rng.random() < 0.35,
    )


def make_record(values: Values, schema: Schema, children: int = 0) -> Record:
    """A thing of this schema, with new values."""
    record = Record(
        schema,
        values.ident(schema.id_style, schema.noun),
        {f.path: values.value(f.kind) for f in schema.fields},
    )
    if schema.child is not None:
        record.children = [make_record(values, schema.child) for _ in range(children)]
    return record


def as_object(record: Record, paths: Sequence[Path] | None = None) -> dict[str, Any]:
    """The record as JSON has it; only some of its fields if `paths` is given."""
    schema = record.schema
    result: dict[str, Any] = {}
    if schema.id_first:
        result[schema.id_field] = record.id
    middle = len(record.values) // 2 if record.children else -1
    for index, (path, value) in enumerate(record.values.items()):
        if index == middle:
            _add_children(result, record)
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


def facts(record: Record) -> tuple[Fact, ...]:
    """What the record's JSON says."""
    own = tuple(Fact(record.id, path, as_text(value)) for path, value in record.values.items())
    return own + tuple(fact for child in record.children for fact in facts(child))


def plain(path: Path) -> str:
    """A path in plain words: `seats.firstClass` is "seats first class"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", " ".join(path))
    return words.replace("_", " ").lower()


def key_text(values: Values, schema: Schema, path: Path) -> str:
    """A way to name a field in a sentence."""
    rng = values.rng
    ambiguous = sum(f.path[-1] == path[-1] for f in schema.fields) > 1
    if len(path) > 1 and (ambiguous or rng.random() < 0.5):
        return values.pick((".".join(path), plain(path)))
    return path[-1] if rng.random() < 0.6 else plain(path[-1:])


def dump(values: Values, item: Any) -> str:
    """JSON text in one of the usual layouts."""
    draw = values.rng.random()
    if draw < 0.55:
        return json.dumps(item, ensure_ascii=False)
    if draw < 0.85:
        return json.dumps(item, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(item, ensure_ascii=False, indent=2 if draw < 0.95 else 1)


def wrap(values: Values, noun: str, item: dict[str, Any]) -> Any:
    """A record as tools return it: alone, or inside an envelope."""
    draw = values.rng.random()
    if draw < 0.7:
        return item
    if draw < 0.8:
        return {"data": item}
    if draw < 0.9:
        return {"ok": True, noun: item}
    return [item]
