"""The commands as functions: `gsvckpt.inspect` and so on."""
