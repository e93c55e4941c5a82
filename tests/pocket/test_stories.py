"""Where everybody and everything is: as the real files say, and as a plain reading of invented stories says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from kv_memory.synthetic.facts import UNKNOWN
from kv_memory.synthetic.values import Values
from pocket_training.corpus import BABI, RealText
from pocket_training.stories import Asked, Line, Whereabouts, parse
from pocket_training.storyteller import invent


def replayed(text: str) -> Whereabouts:
    story, state = parse(text), Whereabouts()
    for line in story.lines:
        state.read(line, story.pronouns)
    return state


@pytest.mark.parametrize("kept", [False, True])
def test_every_answer_of_the_files(data: Callable[[str], Path], kept: bool) -> None:
    folder = data(BABI[1]).parents[1]
    text = RealText.load(folder, kept=kept, limit=0)
    assert {task for task, _ in text.stories} == set(BABI)
    for _, lines in text.stories:
        story, state = parse(lines), Whereabouts()
        answers = [line.split("\t")[1] for line in lines.split("\n") if "\t" in line]
        for step in story.steps:
            if isinstance(step, Line):
                state.read(step, story.pronouns)
            else:
                assert state.answer(step) == answers.pop(0), lines


def test_a_pronoun_means_the_latest_named() -> None:
    state = replayed("Mary went to the office.\nJohn went to the garden.\nAfter that she moved to the kitchen.")
    assert (state.where("Mary"), state.where("John"), state.where("Daniel")) == ("kitchen", "garden", UNKNOWN)
    state = replayed("Mary and John went to the office.\nThen they moved to the garden.\nThen he went to the hallway.")
    assert (state.where("Mary"), state.where("John")) == ("garden", "hallway")
    assert replayed("Then they moved to the garden.").where("Mary") == UNKNOWN


def test_things_go_with_who_has_them() -> None:
    story = "Mary got the milk there.\nMary went to the garden.\nMary dropped the milk.\nMary went to the office."
    assert replayed(story).where("milk") == "garden"
    assert replayed("Mary got the milk there.").where("milk") == UNKNOWN
    assert replayed(story + "\nJohn took the milk there.").where("John") == "garden"


def test_what_the_lines_contradict_is_in_doubt() -> None:
    lines = "Mary went to the garden.\nMary dropped the milk.\nJohn went to the office.\nJohn got the milk there."
    state = replayed(lines)
    assert state.where("John") is None and state.where("milk") is None
    state = replayed(lines + "\nJohn moved to the kitchen.")
    assert state.where("John") == state.where("milk") == "kitchen"


def test_invented_stories_read_plainly() -> None:
    """From the texts alone: who is named or meant, and the last words, which say the place."""
    questions = 0
    for seed in range(300):
        story, state = invent(Values(Random(seed), "train"), 12), Whereabouts()
        places: dict[str, str] = {}
        subjects: list[str] = []
        for step in story.steps:
            if isinstance(step, Asked):
                if step.about in story.pronouns:
                    place = places.get(step.about, UNKNOWN)
                    right = place if not step.place or place == UNKNOWN else "yes" if place == step.place else "no"
                    assert state.answer(step) == right
                    questions += 1
                continue
            state.read(step, story.pronouns)
            named = [name for name in story.pronouns if name in step.text.split(" the ")[0]]
            subjects = named or subjects
            assert named or any(f" {pronoun} " in step.text for pronoun in ("he", "she", "they"))
            if step.deed == "move":
                places.update(dict.fromkeys(subjects, step.text.split(" the ", 1)[1].removesuffix(".")))
    assert questions > 500


def test_invented_stories_are_reproducible_and_never_in_doubt() -> None:
    for seed in range(100):
        story, again = (invent(Values(Random(seed), "train"), 15) for _ in range(2))
        assert story.steps == again.steps
        state = Whereabouts()
        for line in story.lines:
            state.read(line, story.pronouns)
        assert not state.doubtful
