"""convert-fp16, strip-optimizer and migrate: a checkpoint is opened, planned and written."""
