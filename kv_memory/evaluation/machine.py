"""The hardware that figures were measured on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


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
