"""convert-fp16, strip-optimizer and migrate: open a checkpoint, plan the change and write the result."""
