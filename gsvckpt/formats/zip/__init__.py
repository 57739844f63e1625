"""Zip archives: the directory, writing, salvage, compressed records."""
