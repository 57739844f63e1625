"""Where numbers are computed: the host (NumPy), or a torch device. The only place that imports torch or NumPy for work on tensors."""
