"""Formats of conversation files: how each is recognised by its shape, and put into messages of OpenAI's form."""
