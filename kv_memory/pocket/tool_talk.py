"""What a user says that needs no tool though tools are there; each kind of remark has one reply."""

from __future__ import annotations

from kv_memory.pocket.values import Values

NO_TOOL = "I have no tool for that."
Remark = tuple[str, tuple[str, ...], tuple[str, ...]]
"""The reply, ways to say what it replies to, and ways that are kept for testing."""

_REMARKS: tuple[Remark, ...] = (
    (
        "Hello. How can I help?",
        ("Hello!", "Hi!", "Hey there!", "Good morning!", "Hello, {w}!", "Hi again.", "Good evening to you."),
        ("Hi there!", "Good afternoon."),
    ),
    (
        "You are welcome.",
        ("Thanks!", "Thank you.", "Thanks a lot for the {w}.", "Many thanks.", "Great, thank you!",
         "That helped, thanks."),
        ("I am grateful to you.", "Thank you so much, really."),
    ),
    (
        "Goodbye.",
        ("Bye!", "Goodbye for now.", "See you later.", "That is all, bye.", "Good night.", "I have to go now, bye."),
        ("Farewell!", "See you tomorrow, bye."),
    ),
    (
        "Sure, take your time.",
        ("One moment, please.", "Wait a minute.", "Hold on.", "Give me a second.", "Please wait, my {w} is here."),
        ("Just a second, please.", "I will be right back."),
    ),
    (
        "That is nice to hear.",
        ("I like {w}.", "I love {w} and {w}.", "{name} likes {w}.", "My {w} is wonderful.", "We enjoyed the {w}.",
         "I am happy today."),
        ("I am so fond of {w}.", "What a lovely {w} we had."),
    ),
    (
        "I am sorry to hear that.",
        ("I am sad today.", "My {w} is broken.", "I feel ill.", "We lost our {w}.", "{name} is not well.",
         "Bad day here."),
        ("I had a terrible {w}.", "I feel awful."),
    ),
    (
        "I can not say.",
        ("Do you like {w}?", "Which is better, {w} or {w}?", "What do you think of {w}?", "Is {w} good?",
         "Do you prefer {city} or {city}?", "Is {name} nice?"),
        ("What is your opinion of {w}?", "Would you rather have {w} or {w}?"),
    ),
    (
        "I am an assistant.",
        ("Who are you?", "What are you?", "What is your name?", "Are you a person?", "Are you human, {w}?"),
        ("Are you a machine?", "Tell me who you are."),
    ),
    (
        "I am fine, thank you.",
        ("How are you?", "How are you today?", "How is it going?", "Are you well?", "How do you do?"),
        ("Are you doing fine?", "How have you been?"),
    ),
    (
        "Yes, I am here.",
        ("Are you there?", "Are you still there?", "Hello? Anyone?", "Can you hear me?", "Do you read this?"),
        ("Is anybody there?", "Still with me?"),
    ),
    (
        "I can use the tools that are listed.",
        ("What can you do?", "How can you help me?", "What are you able to do?", "What do you do here?"),
        ("In what ways can you help?", "What are you good for?"),
    ),
    (
        "All right, I do nothing.",
        ("Do nothing for now.", "No need to do anything.", "Never mind.", "Forget it.", "You need not do a thing.",
         "Please use no tool now."),
        ("Leave everything as it is.", "There is nothing to do."),
    ),
    (
        "I see.",
        ("It is {w} in {city}.", "We met {name} in {city}.", "The {w} is {w} today.", "My {w} was {w}.",
         "I talked to {name} about {w}.", "I was in {city} last week."),
        ("Yesterday I saw {name} in {city}.", "There was some {w} near {city}."),
    ),
    (
        "Of course.",
        ("Please be brief.", "Be polite, please.", "Keep it short.", "Please be careful with {w}.", "Do not be {w}."),
        ("Try to be friendly.", "I want short replies."),
    ),
    (
        "No problem.",
        ("Sorry!", "I am sorry for the {w}.", "My mistake.", "Excuse me for that.", "Sorry, that was {w}."),
        ("I apologize.", "Forgive me for the {w}."),
    ),
    (
        "I am glad.",
        ("Well done!", "Good work.", "You did that well.", "Perfect, as always.", "You are very good at {w}."),
        ("What a good job!", "I am impressed."),
    ),
)  # fmt: skip
_BEFORE = (*[""] * 6, "Oh. ", "Well. ", "OK. ", "{w}! ", "Hm. ", "{w} {w}. ", "Good. ")
_AFTER = (*[""] * 6, " :)", " {w}!", " {w} {w}.", " So much for {w}.", " {name} says so too.", " I am in {city}.")


def chat(values: Values, held_out: bool | None = None) -> tuple[str, str]:
    """A remark and its reply. `held_out` as in `tool_phrases`."""
    reply, known, kept = values.pick(_REMARKS)
    if values.split == "train":
        held_out = False
    options = {None: known + kept, False: known, True: kept}[held_out]
    text = values.pick(_BEFORE) + values.pick(options) + values.pick(_AFTER)
    while "{w}" in text:
        text = text.replace("{w}", values.any_word(), 1)
    while "{city}" in text:
        text = text.replace("{city}", str(values.value("city")), 1)
    text = text.replace("{name}", values.name())
    return text[0].upper() + text[1:], reply
