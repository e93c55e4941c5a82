"""The list of mutants: each changes one line that is there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def mutants() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutant_list", ROOT / "scripts" / "mutant_list.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_each_mutant_changes_one_line_that_is_there() -> None:
    lost = [
        mutant.what
        for mutant in mutants().MUTANTS
        if (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.line) != 1
    ]
    assert not lost
