"""The stateful objects: memories, their sessions, and what a session does with its cache."""
