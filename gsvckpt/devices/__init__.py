"""Where numbers are computed: on the CPU with NumPy, or on a torch device."""
