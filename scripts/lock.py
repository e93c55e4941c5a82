"""Pins everything that the Makefile installs: rewrites constraints.txt below its marker (`make lock`).

Asks pip what it would install today, with the pins above the marker, and installs nothing. Needs no package. The
machine's platform and Python decide which packages come along: make it on Linux with the oldest Python that is
supported, whose releases run on the newer ones too.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
MARKER = "# Below: everything else, written by `make lock`"
INSTALLED = ["--editable", ".[dev]", "--editable", "integrations/langchain[test]", "llama-cpp-python"]
BUILDING = ["setuptools", "scikit-build-core", "cmake", "ninja"]
"""What the packages without a wheel are built with: ours, forbiddenfruit and llama-cpp-python."""


def resolve(pins: str) -> list[dict[str, Any]]:
    """What pip would install into an empty environment under these pins: the metadata of each package."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        venv.create(work / "venv", with_pip=True)
        (work / "pins.txt").write_text(pins)
        options = ["--quiet", "--dry-run", "--ignore-installed", "--constraint", str(work / "pins.txt")]
        report = ["--report", str(work / "report.json")]
        pip = [str(work / "venv" / "bin" / "python"), "-m", "pip", "install"]
        subprocess.run([*pip, *options, *report, *INSTALLED, *BUILDING], cwd=ROOT, check=True)
        return [part["metadata"] for part in json.loads((work / "report.json").read_text())["install"]]


def name_of(requirement: str) -> str:
    """The package's name as the index normalises it (PEP 503)."""
    found = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def main() -> None:
    """Rewrite constraints.txt."""
    pins = CONSTRAINTS.read_text().partition(MARKER)[0]
    chosen = {name_of(line) for line in pins.splitlines()} | {"kv-memory", "langchain-kv-memory"}
    found = {name_of(package["name"]): package["version"] for package in resolve(pins)}
    made = f", with Python {sys.version_info.major}.{sys.version_info.minor} on {platform.system()}"
    lines = [f"{name}=={version}" for name, version in sorted(found.items()) if name not in chosen]
    CONSTRAINTS.write_text("\n".join([f"{pins}{MARKER}{made}.", *lines, ""]))
    print(f"{len(lines)} packages pinned; `make test` says whether they do.")


if __name__ == "__main__":
    main()
