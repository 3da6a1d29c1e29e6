"""Experiments: what is measured, and how sure one may be of it."""
