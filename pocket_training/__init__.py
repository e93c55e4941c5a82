"""How the pocket model was made: its corpus, its training and its release. Not part of the installed package."""
