"""One file or many: by threads, processes or a cluster."""
