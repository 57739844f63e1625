"""inspect: what a checkpoint is, and where its bytes go."""
