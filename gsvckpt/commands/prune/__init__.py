"""prune: which saves stay and which go, and the trash."""
