"""The training of erasers: KVEraser (arXiv 2606.17034), in two stages, for any model that an engine can edit."""
