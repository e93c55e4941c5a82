"""The embedded default model."""

from __future__ import annotations

from pathlib import Path


def model_path() -> Path:
    """The folder of the shipped model: config, weights, tokenizer and model card."""
    return Path(__file__).parent / "model"
