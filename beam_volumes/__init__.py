"""Algorithms and formats for petascale Precomputed volumes: plain Python and numpy, no Beam."""

__version__ = "0.1.0"
