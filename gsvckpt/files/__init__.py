"""Bytes in and out: paths, URLs, positioned reads, streams, atomic publishing, locks."""
