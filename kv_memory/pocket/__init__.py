"""The embedded default model, which ships with the package."""

from __future__ import annotations

from pathlib import Path


def model_path() -> Path:
    """Return the folder of the shipped model: config, weights, tokenizer and model card."""
    return Path(__file__).parent / "model"
