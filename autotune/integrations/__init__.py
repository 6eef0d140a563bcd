"""Bridges to the programs that people use already."""
