"""Sentences that say nothing about any record: requests, small talk, system messages, errors."""

from __future__ import annotations

REQUESTS = (
    "Please look up {noun} {id}.",
    "Can you check {noun} {id}?",
    "Show me {id}.",
    "Get the {noun} {id} for me.",
    "I want to see {noun} {id}.",
    "Open {id}, please.",
    "Pull up {noun} {id}.",
    "My {noun} is {id}.",
    "I am calling about {noun} {id}, {word}.",
)
LATEST = (
    "Show me the latest {noun}.",
    "Which {noun} is next?",
    "Open the newest {noun}.",
    "Get the current {noun}.",
    "What came in last?",
    "Go to the next {noun}, please.",
)
LISTS = ("List the {noun}s.", "Which {noun}s are there?", "Search the {noun}s for {word}.", "Show all {noun}s.")
READS = ("Read the {word} file.", "Open the page about {word}.", "What do the notes say?", "Check the log, please.")
TALK = (
    ("Hello!", "Hello. How can I help?"),
    ("Thanks a lot.", "You are welcome."),
    ("One moment, please.", "Sure, take your time."),
    ("Let me think about it.", "All right."),
    ("I like {word} very much.", "That is nice to hear."),
    ("Are you still there?", "Yes, I am here."),
    ("My day was {word}.", "I see."),
    ("Good, go on.", "I will."),
    ("I was told to ask you about some records.", "I can look things up for you."),
    ("Please be brief.", "Of course."),
    ("We met {name} in {city} last week.", "I understand."),
    ("Do you like {word}?", "I can not say."),
    ("The {word} is {word} today.", "Good to know."),
)
REMARKS = ("Done.", "Here it is.", "I have it.", "Noted.", "I found this.", "I see it.", "All right.", "Thank you.")
SYSTEMS = (
    "You are a helpful assistant.",
    "You answer questions from the tool results. If a value is not known, answer unknown.",
    "You are an agent of {word}. Answer with the value alone.",
    "Be brief. Use the tools.",
    "# {word} policy\n\nThe current time is {moment}.\n\n- Be polite.\n- Make one tool call at a time.",
)
ERRORS = (
    "Error: {noun} not found",
    '{{"error": "{noun} {word} does not exist"}}',
    '{{"status": "error", "code": {count}, "message": "timeout"}}',
    "Error: invalid arguments",
    "[]",
    "{{}}",
    "null",
    "",
    "",
    "",
)
