"""Trained erasers as files: PEFT directories with eraser.json, and GGUF adapters."""
