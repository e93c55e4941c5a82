"""Measurement of what can be learned of erased text, against a model that never saw it: `kv-memory eval leakage`."""
