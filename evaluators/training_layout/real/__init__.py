"""Short training runs of a layout with PyTorch's own parallelism, launched by torchrun."""
