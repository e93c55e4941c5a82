"""Real chat templates against what the cache holds: the proof that conversations are read as their makers meant.

`shapes` has the conversations, `oracle` says what the template itself writes, `check` compares. The templates are not
part of the project: `python -m tests.reading FOLDER` reads all templates (`*.jinja`) of a folder, and vocabularies
(`*.gguf`) of another.
"""
