"""What each command does: from paths and options to results."""
