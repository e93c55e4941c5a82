"""Training conversations over real text: stories in which things move, and paragraphs with questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from kv_memory.synthetic.drafts import CHARACTERS_PER_TOKEN, TOKENS_PER_MESSAGE
from kv_memory.synthetic.values import Values
from pocket_training.corpus import RealText
from pocket_training.dialogue import REPLIES, Dialogue
from pocket_training.documents import Reader
from pocket_training.samples import Sample
from pocket_training.stories import Asked, Line, Story, Whereabouts, parse
from pocket_training.storyteller import ask_about, invent

_SYSTEMS = (
    "You are a helpful assistant.",
    "Answer with the words of the text alone. If it does not say, answer unknown.",
    "Read carefully and answer briefly.",
    "You are a reader. Answer questions about what you were given.",
)
_NOTE = "Note:\n"
_INTROS = ("", "", "", "Here is a story.\n", "Story:\n", _NOTE, "Remember this:\n", "Read this:\n\n")
REQUESTS = ("Read the story.", "What do the notes say?", "Read on, please.", "Is there news?", "Open the next note.")
_TOOLS = ("read_story", "read_notes", "read_log", "get_messages", "read_page")
_SMALLEST = 100
"""Number of tokens that anything needs."""


def reading_sample(rng: Random, tokens: int, text: RealText) -> Sample:
    """Make a conversation of about `tokens` tokens; without real text, of invented stories alone."""
    talk = Dialogue(rng)
    if rng.random() < 0.4:
        talk.say("system", rng.choice(_SYSTEMS))
    stories = rng.choice((0.15, 0.5, 0.85)) if text.documents else 1
    state = Whereabouts()
    while not talk.answers or tokens - talk.used > _SMALLEST:
        room = tokens - talk.used
        if room > 250 and rng.random() >= stories:
            Reader(talk, text).read(room)
        else:
            StoryTalk(talk, text, state).tell(room)
        if text.books and rng.random() < 0.3 and tokens - talk.used > 2 * _SMALLEST:
            pass_time(talk, text, tokens - talk.used)
    tools = talk.tools if talk.tools and tokens >= 500 and rng.random() < 0.4 else None
    return Sample(talk.messages, tools, frozenset(talk.answers))


def pass_time(talk: Dialogue, text: RealText, room: float) -> None:
    """Add prose about something else, at most about a third of the room."""
    passage = text.passage(talk.rng, max(60, min(800, int(room * CHARACTERS_PER_TOKEN / 3))))
    if talk.rng.random() < 0.5:
        talk.say("user", passage)
        talk.say("assistant", talk.rng.choice(REPLIES))
    else:
        talk.call("read_page", [({}, passage)])


class StoryTalk:
    """The teller of a story in one of many forms. `state` lasts over all stories of a conversation."""

    def __init__(self, talk: Dialogue, text: RealText, state: Whereabouts) -> None:
        self.talk = talk
        self.text = text
        self.state = state
        self.rng = rng = talk.rng
        self.by_user = rng.choice((0, 0.5, 1, 1))
        self.by_line = rng.random() < 0.35
        self.numbered = rng.random() < 0.1
        self.attached = rng.choice((0, 0.5, 1))
        """Share of questions in the message of the lines before them."""
        self.replies = rng.choice((0, 0.5, 1))
        self.requests = rng.choice((0, 0.6))
        self.tool = rng.choice(_TOOLS)
        self.intro = rng.choice(_INTROS)
        self.between = rng.choice(("\n", "\n", "\n", " "))
        self.erased = rng.choice((0, 0, 0.15))
        """Share of messages that are never read: what they said does not count."""

    def tell(self, room: float) -> None:
        """Add the lines, with the questions at their places or after them all, and more questions at the end."""
        end = self.talk.used + room
        story = self._draw(room)
        steps: Sequence[Line | Asked] = story.steps
        if self.rng.random() < 0.3:
            steps = sorted(steps, key=lambda step: isinstance(step, Asked))
        for lines, asked in self._blocks(steps):
            attached = asked is not None and bool(lines) and self.rng.random() < self.attached
            done = bool(lines) and self._read(story, lines, asked if attached else None)
            if asked is not None and not done:
                self._ask(asked)
        closed = isinstance(steps[-1], Asked)
        for count in range(self.rng.choice((0, 1, 2, 4) if closed else (1, 2, 4))):
            if end - self.talk.used > 20 or (count == 0 and not closed) or not self.talk.answers:
                self._ask(ask_about(self.rng, story, self.state, 0.2))

    def _draw(self, room: float) -> Story:
        """Return a real or an invented story, cut to what the room allows."""
        rng = self.rng
        if self.text.stories and rng.random() < 0.45:
            story = parse(self.text.stories[int(rng.random() * len(self.text.stories))][1])
        else:
            longest = 16 if room < 1500 or rng.random() < 0.8 else 60
            story = invent(Values(rng, "train"), rng.randint(4, longest))
        a_line = (
            1 if not self.by_line else TOKENS_PER_MESSAGE + 12 * self.replies * self.by_user + 35 * (1 - self.by_user)
        )
        for index, step in enumerate(story.steps):
            room -= len(step.text) / CHARACTERS_PER_TOKEN + (20 if isinstance(step, Asked) else a_line)
            if room < 30 and index >= 2:
                return Story(story.steps[:index], story.pronouns)
        return story

    def _blocks(self, steps: Sequence[Line | Asked]) -> Iterator[tuple[list[tuple[int, Line]], Asked | None]]:
        """Yield the lines of each message, each with its number, and the question that follows."""
        lines: list[tuple[int, Line]] = []
        for number, step in enumerate(steps, 1):
            if isinstance(step, Asked):
                yield lines, step
                lines = []
            else:
                if self.by_line and lines:
                    yield lines, None
                    lines = []
                lines.append((number, step))
        if lines:
            yield lines, None

    def _read(self, story: Story, lines: list[tuple[int, Line]], asked: Asked | None) -> bool:
        """Add a message with these lines; return whether the question was asked in it."""
        rng, talk = self.rng, self.talk
        content = self.intro + self.between.join(
            f"{n} {line.text}" if self.numbered else line.text for n, line in lines
        )
        if self.intro != _NOTE:
            self.intro = ""
        erased = rng.random() < self.erased
        if not erased:
            for _, line in lines:
                self.state.read(line, story.pronouns)
        if rng.random() >= self.by_user:
            if rng.random() < self.requests:
                talk.say("user", rng.choice(REQUESTS))
            talk.call(self.tool, [({}, "" if erased else content)])
        elif asked is not None and not erased and (answer := self.state.answer(asked)) is not None:
            talk.ask(asked.text, answer, after=content + self.between)
            return True
        else:
            if not erased or rng.random() < 0.4:
                talk.say("user", "" if erased else content)
            if rng.random() < self.replies:
                talk.say("assistant", rng.choice(REPLIES))
        return False

    def _ask(self, asked: Asked) -> None:
        answer = self.state.answer(asked)
        if answer is not None:
            self.talk.ask(asked.text, answer)
