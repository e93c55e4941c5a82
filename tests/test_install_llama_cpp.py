"""scripts/install_llama_cpp.sh: one build for a machine, also when two checkouts want it at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Stands in for an environment's Python: its pip notes what it is asked to do, in place of building for minutes.
PYTHON = """#!/usr/bin/env bash
case "$*" in
    *"import llama_cpp"*) exit 1 ;;
    "-m pip download "*) tar -czf "${@: -2:1}/llama_cpp_python-0.tar.gz" -C "$SOURCE" package ;;
    "-m pip wheel "*)
        echo built >> "$NOTES"
        sleep 1
        [ -z "${FAILS:-}" ] || { echo "no compiler"; exit 1; }
        mkdir "${@: -1}/built" && echo whole > "${@: -1}/built/llama_cpp_python-0-py3-none-any.whl" ;;
    "-m pip install "*) echo "installed $(cat "${@: -1}")" >> "$NOTES" ;;
    *) exec "$REAL" "$@" ;;
esac
"""


class Machine:
    """A user's cache, and checkouts that install from it."""

    def __init__(self, folder: Path) -> None:
        self.notes, self.cache = folder / "notes", folder / "cache"
        self.bin = folder / "env" / "bin"
        self.bin.mkdir(parents=True)
        (self.bin / "python").write_text(PYTHON)
        (self.bin / "python").chmod(0o755)
        (folder / "package").mkdir()
        (folder / "package" / "CMakeLists.txt").write_text("set(LLAMA_BUILD_COMMON ON )\n")
        self.environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(self.cache),
            "NOTES": str(self.notes),
            "SOURCE": str(folder),
            "REAL": sys.executable,
        }

    def install(self, **given: str) -> subprocess.Popen[str]:
        command = ["scripts/install_llama_cpp.sh", str(self.bin.parent)]
        return subprocess.Popen(command, cwd=ROOT, env={**self.environment, **given}, stdout=subprocess.PIPE, text=True)

    def said(self, *installs: subprocess.Popen[str]) -> str:
        output = "".join(install.communicate(timeout=60)[0] for install in installs)
        assert not any(install.returncode for install in installs)
        return output


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_two_at_once_build_it_once(machine: Machine) -> None:
    said = machine.said(machine.install(), machine.install())
    assert machine.notes.read_text().splitlines() == ["built", "installed whole", "installed whole"]
    assert said.count("Building llama-cpp-python") == said.count("Built in 0 min") == said.count("Waiting for") == 1
    assert machine.said(machine.install()) == ""
    assert machine.notes.read_text().count("built") == 1


def test_a_build_that_was_killed_holds_nobody_up(machine: Machine) -> None:
    killed = machine.install()
    assert killed.stdout is not None
    assert "4 minutes" in killed.stdout.readline()
    killed.kill()
    killed.communicate()
    machine.said(machine.install())
    assert machine.notes.read_text().splitlines()[-1] == "installed whole"


def test_where_it_cannot_be_built_that_is_said_and_nothing_fails(machine: Machine) -> None:
    said = machine.said(machine.install(FAILS="1"))
    assert "no compiler\nllama-cpp-python cannot be built here" in said
    assert "installed" not in machine.notes.read_text()
