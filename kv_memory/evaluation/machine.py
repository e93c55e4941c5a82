"""The machine and the versions that figures come from."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict


class Environment(BaseModel):
    """The machine, the versions and the seed that figures come from."""

    model_config = ConfigDict(frozen=True)

    hardware: str
    python: str
    versions: dict[str, str]
    seed: int


def hardware() -> str:
    """Return the name of the GPU, or of the CPU with the number of threads."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    try:
        cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
        name = cpu.split(":", 1)[1].strip()
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def environment(seed: int) -> Environment:
    """Return the environment of this run."""
    names = ("kv-memory", "torch", "transformers", "tokenizers")
    return Environment(
        hardware=hardware(),
        python=platform.python_version(),
        versions={name: _version(name) for name in names},
        seed=seed,
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str | None:
    """Return the commit of the checkout that this package runs from, or what GIT_COMMIT says; None where none is
    known."""
    if "GIT_COMMIT" in os.environ:
        return os.environ["GIT_COMMIT"]
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "rev-parse", "--verify", "--quiet", "HEAD"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
