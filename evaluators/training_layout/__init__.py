"""Training layouts: memory and step time of a model split over GPUs, predicted from measured kernels and links."""
