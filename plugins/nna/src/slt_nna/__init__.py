"""Accelerator-aware training: a described chip in training, in integers, and its cost."""

__version__ = "0.1.0"
