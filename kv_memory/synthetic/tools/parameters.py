"""Random parameters of tools."""

from __future__ import annotations

from collections.abc import Sequence

from kv_memory.synthetic.records import make_key, plain
from kv_memory.synthetic.tools.schemas import Parameter
from kv_memory.synthetic.tools.words import FLAGS, TEST_FLAGS
from kv_memory.synthetic.values import Values
from kv_memory.synthetic.vocabulary import STATUSES

TYPES = {
    "flag": ("boolean",),
    "count": ("integer", "integer", "integer", "string"),
    "digits": ("string", "string", "integer"),
    "price": ("number", "number", "number", "string"),
    "amount": ("integer", "integer", "number", "string"),
}
"""JSON types that values of a kind may have; a string for all others."""
_HINTS = {"date": "YYYY-MM-DD", "time": "HH:MM", "airport": "three letters", "percent": "in percent"}


def write(parts: Sequence[str], style: str) -> str:
    """Write words as a name: in camel case or with underscores."""
    if style == "camel":
        return parts[0] + "".join(part.capitalize() for part in parts[1:])
    return "_".join(parts)


def make_parameter(values: Values, case: str, nested: bool = False) -> Parameter:
    """Draw a parameter; `nested`: of an object."""
    rng = values.rng
    name, kind = make_key(values, case)
    required, draw = rng.random() < 0.6, rng.random()
    if draw < 0.07:
        flag = values.pick(FLAGS if values.split == "train" else TEST_FLAGS)
        name, kind = write(flag.split("_"), case), "flag"
    elif draw < 0.12:
        kind = "text"
    elif draw < 0.17 and not nested:
        item = values.pick(("word", "word", "name", "code", "city", "email"))
        return Parameter(name, "list", "array", required, describe(values, name, "list"), item=item)
    elif draw < 0.22 and not nested:
        fields = {
            part.name: part for part in (make_parameter(values, case, nested=True) for _ in range(rng.randint(1, 3)))
        }
        return Parameter(name, "object", "object", required, fields=tuple(fields.values()))
    elif draw < 0.3 or (kind == "status" and draw < 0.75):
        return Parameter(name, "enum", "string", required, describe(values, name, "enum"), _options(values))
    type_ = values.pick(TYPES.get(kind, ("string",)))
    return Parameter(name, kind, type_, required or nested, describe(values, name, kind))


def _options(values: Values) -> tuple[str, ...]:
    count, draw = values.rng.randint(2, 5), values.rng.random()
    if draw < 0.5:
        return tuple(values.rng.sample(STATUSES, count))
    return tuple(dict.fromkeys(values.any_word() if draw < 0.85 else f"{values.value('code')}" for _ in range(count)))


def describe(values: Values, name: str, kind: str) -> str | None:
    """Return the schema's description of a parameter, if it has one."""
    if values.rng.random() < 0.55:
        return None
    text = values.pick(("The {}", "{}", "{} to use", "{} of the request", "Which {}")).format(plain((name,)))
    hint = f" ({_HINTS[kind]})" if kind in _HINTS and values.rng.random() < 0.6 else ""
    return text[0].upper() + text[1:] + hint + values.pick(("", "", "."))
