"""The words of a request for a given call: they contain every value as the call has it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kv_memory.synthetic.tools.schemas import Tool, article
from kv_memory.synthetic.tools.spelling import Given, Spelling
from kv_memory.synthetic.tools.verbs import Task
from kv_memory.synthetic.tools.words import synonyms

_DO = re.compile(r"\{(do|doing|done|act)\}")


class Wording(Spelling):
    """The writer of the words of one request."""

    def say(self, tool: Tool, given: Sequence[Given], wanted: str | None = None) -> str:
        """Write a request for this call. `wanted`: name of a field of the result that the user wants to know."""
        values, rng = self.values, self.values.rng
        task, rest = self._task(tool, given)
        if len(rest) > 1 and rng.random() < 0.4:
            rest = rng.sample(rest, len(rest))
        style = self.style()
        place = style.place if rest else "inside"
        asks = wanted is not None and place in ("inside", "after", "first") and rng.random() < 0.25
        before, kind, after = _DO.split(self._frame(task, "asks" if asks else None))
        if asks and wanted:
            before, after, wanted = before.replace("{key}", wanted), after.replace("{key}", wanted), None
        core = before.replace("{obj}", task.thing) + task.words(kind)
        listed = self.list(style, rest) if rest else ""
        end = "" if after.endswith((".", "?", "!")) else "."
        match place:
            case "inside" | "json" if not listed.startswith("\n"):
                gap = "" if not listed or listed[0] == "," else " "
                text = f"{core}{gap}{listed}{after}"
            case "after":
                text = f"{core}{after}{end} {listed}"
            case "first":
                text = core + after
                text = f"{_upper(listed)} {_lowered(text) if listed.endswith(',') else _upper(text)}"
            case _:
                text = f"{core}{after.rstrip('.?!')}:{'' if listed[0] == chr(10) else ' '}{listed}"
        text = task.topic + text if not task.topic or task.topic.endswith(": ") else task.topic + _upper(text)
        opener = self.part("openers")
        text = self._opened(opener, text)
        if wanted is not None:
            text = self._wish(text, place, wanted)
        elif place != "lines" and not text.endswith("`") and (closer := self.part("closers")):
            text += ("" if text.endswith((".", "?", "!")) else ".") + " " + closer
        while "{w}" in text:
            text = text.replace("{w}", values.any_word(), 1)
        return text

    def _frame(self, task: Task, section: str | None) -> str:
        if section is None:
            draw = self.values.rng.random()
            section = "frames"
            if task.forms and draw < 0.3:
                section = "doing" if draw < 0.1 else "done" if draw < 0.2 and task.thing != "it" else "act"
        return self.part(section)

    def _opened(self, opener: str, text: str) -> str:
        if not opener:
            return _upper(text) if self.values.rng.random() < 0.85 else text
        text = _upper(text) if opener.endswith((".", "!", ":", "?")) else _lowered(text)
        return f"{_upper(opener)} {text}"

    def _task(self, tool: Tool, given: Sequence[Given]) -> tuple[Task, list[Given]]:
        """Write what to do, and the arguments that this does not say yet."""
        pick, random, part_of = self.values.pick, self.values.rng.random, self.part
        if random() < 0.08:
            return Task(part_of("calls").replace("{tool}", tool.name)), list(given)
        verb = tool.verb if random() < 0.6 else pick(synonyms(tool.group, self.phrases.held_out))
        rest: list[Given] = []
        said: list[str] = []
        flags, name = "", ""
        for leaf, value in given:
            part = leaf.parameter
            if self._natural and part.natural and random() < 0.93:
                said.append(self.said(part.kind, part.natural).format(self.value(part.kind, value)))
            elif part.kind == "id" and not (name or tool.plural or part.natural) and random() < 0.85:
                name = part_of("named").replace("{k}", self.name(leaf)).replace("{id}", self.value("id", value))
            elif isinstance(value, bool) and random() < 0.6:
                flags += pick(pick(self.phrases.flags)[not value]).replace("{k}", self.name(leaf))
            else:
                rest.append((leaf, value))
        if len(said) > 1 and random() < 0.3:
            said = self.values.rng.sample(said, len(said))
        thing = name or part_of("plurals" if tool.plural else "things")
        thing = thing.replace("{noun}", tool.noun).replace("{a}", article(tool.noun))
        topic = ""
        if name and random() < 0.08:
            topic, thing = part_of("topics").replace("{obj}", thing) + " ", "it"
        elif said and random() < 0.06:
            topic, said = f"{_upper(' '.join(said))}: ", []
        return Task(verb, thing, "".join(f" {text}" for text in said) + flags, topic), rest

    def _wish(self, text: str, place: str, wanted: str) -> str:
        wish = self.part("wants").replace("{key}", wanted)
        if place == "inside" and text.endswith(".") and wish.startswith("And "):
            return f"{text[:-1]} {_lowered(wish)}"
        gap = "\n" if place == "lines" or text.endswith("`") else " " if text.endswith((".", "?", "!")) else ". "
        return text + gap + _upper(wish)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lowered(text: str) -> str:
    return text if text.startswith(("I ", "I'")) else text[:1].lower() + text[1:]
