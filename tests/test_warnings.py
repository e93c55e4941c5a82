"""No call of ours causes a warning: a user can do nothing about it, and a deprecation breaks us a few releases on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.test_session import CONVERSATION
from tests.tiny import save_tiny
from tests.warnings_raised import OURS, ROOT, caller


def raised(tmp_path: Path, *command: object) -> list[str]:
    """The warnings that calls of ours cause while this runs, and deprecations that are logged; it has to end well."""
    out = tmp_path / "warnings.json"
    paths = [str(ROOT), str(ROOT / "integrations" / "langchain"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "warnings_raised.py"), str(out), *(str(part) for part in command)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert not done.returncode, done.stderr
    logged = [line for line in done.stderr.splitlines() if "deprecat" in line.lower()]
    return [*json.loads(out.read_text()), *logged]


def test_the_demo(tmp_path: Path) -> None:
    assert raised(tmp_path, "-m", "kv_memory", "demo") == []


def test_a_replay(tmp_path: Path) -> None:
    conversation = tmp_path / "conversation.json"
    conversation.write_text(json.dumps(CONVERSATION))
    command = ["-m", "kv_memory", "replay", conversation, "--retract", "c1", "--eraser", "steer+repair"]
    assert raised(tmp_path, *command) == []


@pytest.mark.parametrize("options", [(), ("--gradient-checkpointing",)], ids=["plain", "checkpointed"])
def test_training_an_eraser(tmp_path: Path, options: tuple[str, ...]) -> None:
    model, text = save_tiny(tmp_path / "model"), tmp_path / "text.txt"
    text.write_text(" ".join(f"word{number}" for number in range(1500)))
    size = ["--text-steps", 1, "--task-steps", 1, "--length", 320, "--batch", 320]
    command = ["-m", "kv_memory", "train-eraser", "--model", model, "--text", text, "--out", tmp_path / "eraser", *size]
    assert raised(tmp_path, *command, *options) == []


def test_an_example(tmp_path: Path) -> None:
    pytest.importorskip("langchain", reason="the examples are of the LangChain integration")
    assert raised(tmp_path, "examples/langchain_rag.py") == []


TORCH, TRANSFORMERS = "/v/site-packages/torch/nn/modules/module.py", "/v/site-packages/transformers/model.py"
PEFT, FUNCTION = "/v/site-packages/peft/peft_model.py", "/v/site-packages/torch/functional.py"
KV_MEMORY, STANDARD = str(ROOT / "kv_memory" / "demo.py"), "/usr/lib/python3.11/warnings.py"


@pytest.mark.parametrize(
    ("files", "whose"),
    [
        ((KV_MEMORY, TORCH, TRANSFORMERS, STANDARD), OURS),
        ((KV_MEMORY, TORCH, PEFT, TORCH, TRANSFORMERS), OURS),
        ((KV_MEMORY, TORCH, TRANSFORMERS, TORCH, FUNCTION), "transformers"),
        ((TRANSFORMERS, KV_MEMORY, STANDARD), OURS),
    ],
    ids=["our call", "through peft", "among libraries", "called back"],
)
def test_whose_call_it_was(files: tuple[str, ...], whose: str) -> None:
    assert caller(inside(*files)) == whose


def inside(*files: str) -> FrameType:
    """The innermost frame of calls through functions named `forward` in these files."""
    names: dict[str, Any] = {"frame": sys._getframe}
    call = "frame()"
    for number, file in enumerate(reversed(files)):
        exec(compile(f"def forward(): return {call}\nf{number} = forward", file, "exec"), names)
        call = f"f{number}()"
    found: FrameType = names[call.removesuffix("()")]()
    return found
