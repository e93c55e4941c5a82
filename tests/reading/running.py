"""Reading one template in all shapes; a worker of the nightly command does."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from tests.reading.check import Check, DifferenceError, engine_with, tokenizer_with
from tests.reading.shapes import SHAPES

WRONG = "wrong"


@cache
def _loaded(vocabulary: Path) -> Any:
    if vocabulary.is_dir():
        return AutoTokenizer.from_pretrained(vocabulary)
    return AutoTokenizer.from_pretrained(vocabulary.parent, gguf_file=vocabulary.name)


def read(path: Path, vocabulary: Path | None = None) -> dict[str, Any]:
    """Read all shapes with one template; return how many were right, and what was wrong."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    base = copy.deepcopy(_loaded(vocabulary)) if vocabulary is not None else None
    engine = engine_with(tokenizer_with(path.read_text(encoding="utf-8"), base))
    check = Check(engine, by_bytes=vocabulary is None)
    found, wrong = Counter[str](), []
    for name, shape in SHAPES.items():
        try:
            found[check.whole(shape) if vocabulary else check.shape(shape)] += 1
        except DifferenceError as error:
            found[WRONG if error.in_text else "tokens"] += 1
            wrong.append(f"{name}, {error.where}")
            print(f"{path.stem}, {name}, {error}", flush=True)
        except Exception as error:
            found[WRONG] += 1
            wrong.append(f"{name}, {type(error).__name__}")
            print(f"{path.stem}, {name}: {error!r}", flush=True)
    return {"template": path.stem, **found, **({"which": wrong} if wrong and not vocabulary else {})}
