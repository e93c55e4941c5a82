"""The making of the pocket model: its corpus, its training and its release. Not part of the installed package."""
