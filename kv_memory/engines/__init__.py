"""Model runtimes that hold KV cells, behind one set of cache-edit primitives (see base.py)."""
