"""What commands do to a checkpoint, as pure functions from plan to plan."""
