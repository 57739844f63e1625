"""Run a job on one file or many: in threads, processes or on a cluster."""
