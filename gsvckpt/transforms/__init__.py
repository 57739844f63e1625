"""Changes to a checkpoint, as pure functions from plan to plan."""
