"""Conversations: text to cells and back. No module here calls an engine."""
