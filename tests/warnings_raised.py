"""Runs a command and writes down the warnings that calls of ours cause: OUT FILE|-m MODULE [ARGUMENT ...].

Python attributes a warning to the line that `stacklevel` points at, which for a deprecated argument of a model is one
in torch: no filter by module can tell whose call it was. Here the stack is read while the warning is raised. Outwards
from the code that warns, past what only hands calls on, the first other package is the caller that could avoid it. If
that is a library too (peft asks transformers for a property that is to go, say), the two have to settle it.
"""

from __future__ import annotations

import json
import runpy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import TextIO

ROOT = Path(__file__).resolve().parents[1]
OURS = "ours"
FOLDERS = [ROOT / name for name in ("kv_memory", "integrations", "examples", "benchmarks", "tests")]


def whose(code: CodeType) -> str | None:
    """OURS, the name of an installed package, or None for the standard library and for what only hands calls on."""
    file = Path(code.co_filename)
    if file == Path(__file__):
        return None
    if any(folder in file.parents for folder in FOLDERS):
        return OURS
    if "site-packages" not in file.parts:
        return None
    package = file.parts[file.parts.index("site-packages") + 1]
    if file.match("torch/nn/modules/module.py") or file.match("torch/utils/_contextlib.py"):
        return None  # calls a module's forward, or a function under no_grad, for whoever called the module
    if package == "peft" and code.co_name == "forward":
        return None  # a model with an adapter calls the one without
    return package


def outwards(frame: FrameType | None) -> Iterator[str]:
    """The packages from this frame to the outermost."""
    while frame:
        if name := whose(frame.f_code):
            yield name
        frame = frame.f_back


def caller(frame: FrameType | None) -> str | None:
    """The package whose call caused the warning that is raised in this frame."""
    names = list(outwards(frame))
    if not names or names[0] == OURS:
        return names[0] if names else None
    return next((name for name in names if name != names[0]), names[0])


def main(out: str, *command: str) -> None:
    """Run the command, and write what was raised by our calls as a JSON list."""
    ours: list[str] = []

    def raised(  # noqa: PLR0917  # the signature of warnings.showwarning
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if caller(sys._getframe()) == OURS:
            ours.append(f"{category.__name__} at {filename}:{lineno}: {message}")

    warnings.simplefilter("always")
    warnings.showwarning = raised
    module = command[0] == "-m"
    sys.argv = list(command[module:])
    try:
        if module:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        Path(out).write_text(json.dumps(ours))


if __name__ == "__main__":
    main(*sys.argv[1:])
