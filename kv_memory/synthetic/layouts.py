"""Records as text: JSON in many shapes, lines, logs, tables, XML and YAML."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from kv_memory.synthetic.facts import Path
from kv_memory.synthetic.records import Record, as_object, plain
from kv_memory.synthetic.values import Scalar, Values, as_text

_TABLE_COLUMNS = 6
"""Largest number of columns of a table: finding a cell by counting is not what the model is for."""


def dump(values: Values, item: Any) -> str:
    """Return the value as JSON text in one of the usual layouts."""
    draw = values.rng.random()
    if draw < 0.55:
        return json.dumps(item, ensure_ascii=False)
    if draw < 0.85:
        return json.dumps(item, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(item, ensure_ascii=False, indent=2 if draw < 0.95 else 1)


def wrap(values: Values, noun: str, item: dict[str, Any]) -> Any:
    """Return a record as tools return it: alone, or inside an envelope."""
    draw = values.rng.random()
    if draw < 0.7:
        return item
    if draw < 0.8:
        return {"data": item}
    if draw < 0.9:
        return {"ok": True, noun: item}
    return [item] if draw < 0.97 else [[item]]


def one(values: Values, record: Record, paths: Sequence[Path] | None = None) -> str:
    """Return one record as text, with its id; some of its fields if `paths` is given."""
    rng = values.rng
    item = as_object(record, paths)
    if record.children or rng.random() < 0.72:
        return dump(values, wrap(values, record.schema.noun, item))
    pairs = _pairs(record, paths)
    return values.pick((_lines, _lines, _log, _log, _xml, _yaml, _grid))(values, record, pairs)


def several(values: Values, records: Sequence[Record]) -> str:
    """Return records of one kind as text."""
    draw = values.rng.random()
    if any(record.children for record in records) or draw < 0.62:
        return dump(values, _collection(records, draw))
    if draw < 0.74 and len(records[0].values) < _TABLE_COLUMNS:
        return _table(values, records)
    if draw < 0.8:
        return "\n".join(_item(values, record) for record in records)
    if draw < 0.9:
        return "\n".join(_log(values, record, _pairs(record, None)) for record in records)
    joint = values.pick(("\n\n", "\n---\n", "\n"))
    return joint.join(_lines(values, record, _pairs(record, None)) for record in records)


def _collection(records: Sequence[Record], draw: float) -> Any:
    """Return records as JSON: a list, a list in an envelope, or an object by id."""
    items = [as_object(record) for record in records]
    if draw < 0.4:
        return items
    if draw < 0.5:
        return {"count": len(items), f"{records[0].schema.noun}s": items}
    keyed = {record.id: item for record, item in zip(records, items, strict=True)}
    return keyed if draw < 0.57 else {"result": keyed}


def _pairs(record: Record, paths: Sequence[Path] | None) -> list[tuple[Path, Scalar]]:
    return [(path, value) for path, value in record.values.items() if paths is None or path in paths]


def _name(values: Values, path: Path) -> str:
    return plain(path) if values.rng.random() < 0.25 else ".".join(path)


def _log(values: Values, record: Record, pairs: list[tuple[Path, Scalar]]) -> str:
    moment = as_text(values.value("moment"))
    level = values.pick(("INFO", "DEBUG", "[info]", "WARN", ""))
    mark = values.pick((" ", " ", ", ", "; "))
    said = mark.join(f"{'.'.join(path)}={as_text(value)}" for path, value in pairs)
    return f"{moment} {level} {record.schema.noun} {record.id} {said}".replace("  ", " ")


def _lines(values: Values, record: Record, pairs: list[tuple[Path, Scalar]]) -> str:
    head = values.pick(
        (f"{record.schema.noun} {record.id}", f"{record.schema.id_field}: {record.id}", f"## {record.id}")
    )
    sign, dash = values.pick((": ", ": ", " = ", ":")), values.pick(("", "", "- ", "  "))
    return "\n".join([head, *(f"{dash}{_name(values, path)}{sign}{as_text(value)}" for path, value in pairs)])


def _xml(values: Values, record: Record, pairs: list[tuple[Path, Scalar]]) -> str:
    names = ["_".join(path).replace(" ", "_") for path, _ in pairs]
    inner = "".join(f"<{name}>{as_text(value)}</{name}>" for name, (_, value) in zip(names, pairs, strict=True))
    noun = record.schema.noun
    return f'<{noun} id="{record.id}">{inner}</{noun}>'


def _yaml(values: Values, record: Record, pairs: list[tuple[Path, Scalar]]) -> str:
    lines = [f"{record.schema.noun}:", f"  {record.schema.id_field}: {record.id}"]
    group: Path = ()
    for path, value in pairs:
        if path[:-1] and path[:-1] != group:
            lines.append("  " + ".".join(path[:-1]) + ":")
        group = path[:-1]
        lines.append("  " * (2 if group else 1) + f"{path[-1]}: {as_text(value)}")
    return "\n".join(lines)


def _item(values: Values, record: Record) -> str:
    """Return one item of a YAML list."""
    lines = _yaml(values, record, _pairs(record, None)).split("\n")[1:]
    return "\n".join(("- " if place == 0 else "  ") + line[2:] for place, line in enumerate(lines))


def _grid(values: Values, record: Record, pairs: list[tuple[Path, Scalar]]) -> str:
    rows = [(record.schema.id_field, record.id), *((_name(values, path), as_text(value)) for path, value in pairs)]
    return "\n".join(f"| {name} | {text} |" for name, text in rows)


def _table(values: Values, records: Sequence[Record]) -> str:
    schema = records[0].schema
    head = [schema.id_field, *(".".join(path) for path in records[0].values)]
    rows = [[record.id, *(as_text(value) for value in record.values.values())] for record in records]
    write: Callable[[list[str]], str]
    if values.rng.random() < 0.5:
        write = lambda cells: "| " + " | ".join(cells) + " |"  # noqa: E731
        return "\n".join(map(write, [head, ["---"] * len(head), *rows]))
    mark = values.pick((",", ";", "\t", " | "))
    return "\n".join(map(mark.join, [head, *rows]))
