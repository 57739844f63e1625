"""What each command does: paths and options in, results out."""
