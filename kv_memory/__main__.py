"""`python -m kv_memory` is `kv-memory`; several processes of it: `torchrun --nproc-per-node 4 -m kv_memory ...`."""

from kv_memory.cli.app import main

if __name__ == "__main__":
    main()
