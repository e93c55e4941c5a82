"""Docstrings can be read alone, and docstrings, comments and help texts use the field's words."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("kv_memory", "integrations/langchain/langchain_kv_memory", "pocket_training", "benchmarks")

VERBS = """
Acquire Add Answer Append Apply Ask Assert Attribute Average Begin Bind Bring Build Calibrate Call Cancel Carry Check
Checkpoint Choose Clear Close Collect Compare Compute Continue Convert Copy Count Create Cut Decide Decode Defer Delete
Describe Do Draw Drop Encode End Enter Erase Estimate Evaluate Evict Explain Export Fill Find Finish Forget Fork Format
Free Generate Give Have Heal Hold Insert Join Judge Keep Learn Leave Let List Load Log Make Measure Mention Merge Move
Note Open Overwrite Parse Place Plan Plot Prefill Print Put Raise Read Rebuild Recompute Register Release Remember
Remove Replace Report Reserve Resolve Restore Retract Return Rotate Run Save Search See Select Send Set Show Skip Sort
Split Start Steer Stop Sum Summarise Switch Take Tokenize Train Truncate Try Turn Undo Update Verify Wait Warn Wrap
Write Yield
"""
"""First words of a function's docstring. Add a verb that is missing, in the imperative."""

FRAGMENTS = "About As By For From How In Its Of Those To What Which With"
"""First words that need the name above them; a field or class is a noun phrase that can be read alone."""

TRANSLATED = {
    r"\banew\b": "again, replaced, generated again",
    r"\b(re-)?read(s|ing)?( \w+){0,2} again\b": "recompute, prefill again",
    r"\b(stands?|stood)\b(?! ((in )?for|out)\b)": "is, is at",
    r"\b(goes|go) by\b": "follows, uses",
    r"\bhears?\b": "is called with, receives",
    r"\bso (many|much) (?!that)": "`n`, that many",
    r"\bby now\b": "now",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> Iterator[tuple[str, str]]:
    """Yield the path and text of every module."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and text of docstrings, comments and help texts; lines of a text are joined."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text
            case ast.keyword(arg="help", value=ast.Constant(value=str(text))):
                yield node.lineno, text
            case ast.keyword(arg="help", value=ast.JoinedStr() as text):
                yield node.lineno, ast.unparse(text)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def functions(tree: ast.Module) -> Iterator[tuple[Function, str]]:
    """Yield the public functions, methods and properties that have a docstring."""
    bodies = [tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    for node in (node for body in bodies for node in body):
        if isinstance(node, Function):
            text = ast.get_docstring(node)
            if text is not None and (not node.name.startswith("_") or node.name.startswith("__")):
                yield node, text


def nouns(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of classes and fields: string statements except those of modules and functions."""
    others = [node.body[0] for node in ast.walk(tree) if isinstance(node, ast.Module | Function) and node.body]
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))) if node not in others:
                yield node.lineno, text


def first_word(text: str) -> str:
    return re.split(r"[\s,.:;]", text.strip(), maxsplit=1)[0]


def test_docstrings_can_be_read_alone() -> None:
    found = []
    for path, source in sources():
        tree = ast.parse(source)
        found += [
            f"{path}:{node.lineno} {node.name} opens with {first_word(text)!r}, which is not in VERBS"
            for node, text in functions(tree)
            if first_word(text) not in VERBS.split()
        ]
        found += [
            f"{path}:{line} opens with {first_word(text)!r} and needs the name above it"
            for line, text in nouns(tree)
            if first_word(text) in FRAGMENTS.split()
        ]
    assert not found, "\n".join(found)


def test_texts_use_the_words_of_the_field() -> None:
    found = [
        f"{path}:{line} says {match[0]!r}; better: {instead}"
        for path, source in sources()
        for line, text in texts(source)
        for wrong, instead in TRANSLATED.items()
        for match in re.finditer(wrong, " ".join(text.split()), re.IGNORECASE)
    ]
    assert not found, "\n".join(found)
