"""The pattern by which a tiktoken tokenizer cuts text before it merges: the file of ranks does not hold it.

It is read from the model's tokenizer code, as text: nothing of that code is run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from kv_memory.errors import ModelError

SETTING = "pat_str"
"""Name of the pattern in tokenizer code, and in a tokenizer_config.json that says it."""
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""Pattern of Llama 3 and of GLM-4 and later."""
_FAMILIES = ("llama", "chatglm", "glm")
_MOST = 1_000_000
"""Characters of the longest code that is read."""


def known_pattern(config: Mapping[str, Any]) -> str | None:
    """Return the pattern of the model's family, by its configuration; None where that is not known."""
    kind = str(config.get("model_type") or "")
    same = kind == _FAMILIES[0] or kind.startswith(_FAMILIES[1:])
    return LLAMA_3 if same else None


def pattern_in(code: str, where: str) -> str:
    """Return the pattern that Python code gives its tiktoken encoding; the code is read, not run.

    `where`: what holds the code, for errors. Raises ModelError where it has none, several, or one that only running it
    would tell.
    """
    found = set(_patterns(_parsed(code, where), where))
    if len(found) != 1:
        said = "several patterns" if found else "no pattern"
        raise _unknown(f"{where} has {said}")
    return found.pop()


def _parsed(code: str, where: str) -> ast.Module:
    if len(code) > _MOST:
        raise _unknown(f"{where} is too long to be tokenizer code")
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _unknown(f"{where} is not Python code") from None


def _patterns(tree: ast.Module, where: str) -> Iterator[str]:
    """Yield all texts that are given to a name that means the pattern."""
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        value: ast.expr | None = None
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)):
            targets, value = [node.target], node.value
        elif isinstance(node, ast.keyword) and _means_pattern(node.arg):
            value = node.value
        if value is None or not (isinstance(node, ast.keyword) or any(map(_is_pattern, targets))):
            continue
        if isinstance(node, ast.AugAssign):
            raise _unknown(f"{where} puts its pattern together as it runs")
        if not _refers(value):
            yield _text(value, where)


def _means_pattern(name: str | None) -> bool:
    return name is not None and name.lower() == SETTING


def _is_pattern(node: ast.expr) -> bool:
    """Return whether this is a variable or an attribute that means the pattern."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
    return _means_pattern(name)


def _refers(node: ast.expr) -> bool:
    """Return whether an expression is the pattern under another name, or compiled: it adds nothing."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "compile":
        return len(node.args) == 1 and not node.keywords and _refers(node.args[0])
    return _is_pattern(node)


def _text(node: ast.expr, where: str) -> str:
    """Return the text that an expression of literals makes: one, several joined, or their sum."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, where) + _text(node.right, where)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":
        parts = node.args[0] if len(node.args) == 1 and not node.keywords else None
        if isinstance(parts, (ast.List, ast.Tuple)):
            return _text(node.func.value, where).join(_text(part, where) for part in parts.elts)
    raise _unknown(f"{where} puts its pattern together as it runs")


def _unknown(why: str) -> ModelError:
    return ModelError(
        f"It cannot be told how this tokenizer cuts text before it merges: {why}, and code of models is never run; "
        f'write the pattern into tokenizer_config.json as "{SETTING}", or add the model\'s tokenizer.json.'
    )


def unknown_pattern(name: str) -> ModelError:
    """Return the error for a model that does not say its pattern at all."""
    return _unknown(f"nothing in {name} says it")
