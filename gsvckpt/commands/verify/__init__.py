"""verify: is a file sound? Findings, manifests, checksum files and copies."""
