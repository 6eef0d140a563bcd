"""File formats of engines that people run, for the exporters of several domains."""
