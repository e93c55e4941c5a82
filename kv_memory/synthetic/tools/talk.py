"""Remarks of the user that need no tool although tools are there; each kind of remark has one reply."""

from __future__ import annotations

from functools import cache

from kv_memory.synthetic.tools.bank import Lines, expand, lines, raw, without
from kv_memory.synthetic.values import Values

NO_TOOL = "I have no tool for that."


@cache
def remarks(held_out: bool | None) -> tuple[tuple[str, Lines], ...]:
    """Return the replies with the remarks that they answer; `held_out` as in `tool_phrases`."""
    found: dict[str, tuple[list[tuple[str, ...]], list[tuple[str, ...]]]] = {}
    reply, held = "", frozenset(raw("talk", True))
    for line in raw("talk"):
        if line.startswith("= "):
            reply = line[2:]
            found[reply] = ([], [])
        else:
            found[reply][line in held].append(expand(line))
    ways = []
    for reply, (known, kept) in found.items():
        left = without(tuple(known), tuple(kept))
        ways.append((reply, {None: left + tuple(kept), False: left, True: tuple(kept) or left}[held_out]))
    return tuple(ways)


def chat(values: Values, held_out: bool | None = None) -> tuple[str, str]:
    """Draw a remark and its reply; `held_out` as in `tool_phrases`."""
    if values.split == "train":
        held_out = False
    pick = values.pick
    reply, said = pick(remarks(held_out))
    texts = (pick(pick(lines("before", held_out))), pick(pick(said)), pick(pick(lines("after", held_out))))
    text = " ".join(part for part in texts if part)
    while "{w}" in text:
        text = text.replace("{w}", values.any_word(), 1)
    while "{city}" in text:
        text = text.replace("{city}", str(values.value("city")), 1)
    while "{name}" in text:
        text = text.replace("{name}", values.name(), 1)
    return (text[0].upper() + text[1:] if values.rng.random() < 0.9 else text), reply
