"""The command line, `kv-memory`."""
