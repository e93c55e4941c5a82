"""How requests for a tool are worded; some of each kind are kept for testing only.

A request is an opener, a frame around what to do, and the arguments in some style. `{w}` is any word, `{k}` an
argument's name, `{v}` its value, `{key}` a field of the result that the user wants to hear. A random word never touches
a value, for then nobody could say where the value begins.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from kv_memory.pocket.values import Split

Frame = tuple[str, str, str]
"""What stands before and after what to do, and the mark at the end."""
Place = Literal["inside", "colon", "lines", "after", "first"]


class Style(NamedTuple):
    """A way to say arguments."""

    place: Place
    """inside the sentence; after a colon; in lines of their own; in sentences after it; before everything else."""
    heads: tuple[str, ...]
    items: tuple[str, ...]
    between: tuple[str, ...] = (", ",)
    last: tuple[str, ...] = (" and ",)
    """Before the last argument."""
    tail: str = ""


class ToolPhrases(NamedTuple):
    """The wordings that one world draws from."""

    openers: tuple[str, ...]
    frames: tuple[Frame, ...]
    calls: tuple[str, ...]
    """To do: use the tool of this name."""
    styles: tuple[Style, ...]
    wants: tuple[str, ...]
    """A wish to hear a field of the result, as a sentence."""
    closers: tuple[str, ...]


_OPENERS = (
    *[""] * 14, "Hi, ", "Hello! ", "OK, ", "So, ", "Now, ", "Next, ", "Thanks. ", "Good. ", "One more thing: ",
    "Well, ", "Hey, ", "And then, ", "Good morning. ", "Sorry, ", "I have a task: ", "To do: ", "Quick one: ", "{w}. ",
    "{w}, ", "{w} {w}. ", "{w} {w}, ", "{w} {w} {w}. ", "It is {w} here. ", "My {w} is {w}. ", "{w}! ",
)  # fmt: skip
_TEST_OPENERS = ("", "", "Good evening. ", "Another request: ", "Alright, ", "Before I forget: ")
_FRAMES: tuple[Frame, ...] = (
    ("", "", "."), ("", "", "."), ("", "", ""), ("", ", please", "."), ("Please ", "", "."), ("Please ", "", ""),
    ("Can you ", "", "?"), ("Could you ", "", "?"), ("Could you please ", "", "?"), ("Would you ", "", "?"),
    ("I want you to ", "", "."), ("I want to ", "", "."), ("I need to ", "", "."), ("I need you to ", "", "."),
    ("I would like to ", "", "."), ("I'd like you to ", "", "."), ("Use the tool to ", "", "."),
    ("Use a tool to ", "", "."), ("Help me ", "", "."), ("Go ahead and ", "", "."), ("Let's ", "", "."),
    ("We have to ", "", "."), ("You should ", "", "."), ("You must ", "", " now."), ("Will you ", "", "?"),
    ("Can you ", " for me", "?"), ("", " for me", "."), ("", " now", "."), ("My boss told me to ", "", "."),
    ("Try to ", "", "."), ("I wish to ", "", "."), ("It is time to ", "", "."), ("Your job is to ", "", "."),
    ("May I ask you to ", "", "?"), ("The task: ", "", "."), ("I have to ", "", "."), ("Do this: ", "", "."),
    ("{w} told me to ", "", "."), ("For {w}, ", "", "."), ("First ", "", "."), ("Just ", "", "."), ("Now ", "", "!"),
)  # fmt: skip
_TEST_FRAMES: tuple[Frame, ...] = (
    ("Kindly ", "", "."), ("It would be great if you could ", "", "."), ("I was hoping that you could ", "", "."),
    ("Do me a favour and ", "", "."), ("We should ", " as soon as possible", "."), ("Is it possible to ", "", "?"),
    ("I was asked to ", "", "."), ("Make sure to ", "", "."),
)  # fmt: skip
_CALLS = ("call {}", "use {}", "run {}", "use the tool {}", "call the {} tool", "use {} for this", "do a {}")
_TEST_CALLS = ("invoke {}", "make a call to {}")

_NAMED = ("{k} {v}", "the {k} {v}", "{k}: {v}", "{k} = {v}")
_AS = ("{v} as the {k}", "{v} as {k}", "{v} for the {k}", "{v} for {k}")
_IS = ("the {k} is {v}", "{k} is {v}", "the {k} reads {v}", "{k} equals {v}", "the {k} should be {v}")
_TO = ("the {k} to {v}", "{k} to {v}")
_PAIRS = ("{k}: {v}", "{k}={v}", "{k} = {v}", "{k} {v}")
_STYLES = (
    Style("inside", (" with ", ", with ", " having "), _NAMED),
    Style("inside", (" with ", ", with "), ("the {k} {v}", "{k} {v}"), (", ", " and "), (" and ", ", ")),
    Style("inside", (" using ", " with ", ", taking "), _AS),
    Style("inside", (" where ", " such that ", " so that ", ", where "), _IS),
    Style("inside", (" (", " with ("), _PAIRS, (", ", "; "), (", ", "; "), ")"),
    Style("inside", (", ", " - "), _PAIRS, (", ",), (", ", " and ")),
    Style("inside", (" and set ", " and put "), _TO),
    Style("inside", (", {w} ", ", {w} {w} ", ", {w} with ", " - {w} "), ("the {k} {v}", "{k} {v}", "{k}: {v}")),
    Style("colon", (" ",), _PAIRS, (", ", "; ", " | "), (", ", "; ", " and ")),
    Style("lines", ("\n", "\n\n"), _PAIRS, ("\n",), ("\n",)),
    Style("lines", ("\n- ",), (*_PAIRS, "{k} is {v}"), ("\n- ",), ("\n- ",)),
    Style("after", (" Set ", " Please set ", " Put ", " I want you to set "), _TO, tail="."),
    Style("after", (" Use ", " Take ", " Please use ", " I have "), _AS, tail="."),
    Style("after", (" ", " Note: "), ("The {k} is {v}", "Its {k}: {v}", "The {k} must be {v}"), (". ",), (". ",), "."),
    Style("after", (" {w} {w} ", " {w} "), ("the {k} {v}", "{k} as {v}", "the {k} with {v}"), tail="."),
    Style("first", ("With ", "Using ", "Given "), ("the {k} {v}", "{k} {v}", "{v} as the {k}"), tail=", "),
    Style("first", ("", "I have this: "), ("The {k} is {v}", "{k}: {v}"), (". ", ", "), (". ", ", "), ". "),
)
_TEST_STYLES = (
    Style("inside", (" whose ", ", whose "), ("{k} should be {v}", "{k} is {v}")),
    Style("inside", (" and give it ",), ("{v} as the {k}", "the {k} {v}")),
    Style("colon", (" ",), ("{k} -> {v}", "{v} ({k})"), (" / ", ", "), (" / ", ", ")),
    Style("after", (" Let ", " Please let "), ("the {k} be {v}",), tail="."),
    Style("after", (" For ",), ("the {k} take {v}", "{k} choose {v}"), (", for ",), (" and for ",), "."),
    Style("first", ("Taking ",), ("{v} for the {k}", "{v} to be the {k}"), tail=", "),
)
_WANTS = (
    *["And tell me the {key}."] * 5,
    "And give me the {key}.",
    "And say the {key}.",
    "Tell me the {key}.", "Then tell me the {key}.", "What is the {key}?", "I want to know the {key}.",
    "Say the {key}.", "Which {key} do I get?", "Give me the {key}.", "Let me know the {key}.", "I need the {key}.",
    "Then give me the {key}.", "Answer with the {key}.", "After that, say the {key}.", "What {key} comes back?",
    "Reply with the {key} only.", "The {key}?", "Show me the {key}.", "{w} {w} the {key}?",
)  # fmt: skip
_TEST_WANTS = (
    "Afterwards I need to hear the {key}.",
    "Once done, what {key} do you see?",
    "And report the {key}.",
)
_CLOSERS = (*[""] * 12, " Thanks.", " Thank you.", " It is for {w}.", " I am in a hurry.", " {w} {w}.", " That is all.")

_TRAIN = ToolPhrases(_OPENERS, _FRAMES, _CALLS, _STYLES, _WANTS, _CLOSERS)
_KEPT = ToolPhrases(_TEST_OPENERS, _TEST_FRAMES, _TEST_CALLS, _TEST_STYLES, _TEST_WANTS, ("",))
_BOTH = ToolPhrases(
    _OPENERS + _TEST_OPENERS,
    _FRAMES + _TEST_FRAMES,
    _CALLS + _TEST_CALLS,
    _STYLES + _TEST_STYLES,
    _WANTS + _TEST_WANTS,
    _CLOSERS,
)


def tool_phrases(split: Split, held_out: bool | None = None) -> ToolPhrases:
    """The wordings of a split. `held_out` says which a test world uses: those of training (False), those that were
    kept for testing (True), or both (None)."""
    if split == "train":
        return _TRAIN
    return {None: _BOTH, False: _TRAIN, True: _KEPT}[held_out]
