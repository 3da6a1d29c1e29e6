"""Residual adapters: small updates of a frozen model, one file each."""

__version__ = "0.1.0"
