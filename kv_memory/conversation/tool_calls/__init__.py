"""Tool calls in what a model writes: their formats, and the one parser that reads them, whole or as they come."""
