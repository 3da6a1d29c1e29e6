"""Candidates from a call, a file, or a language model on this machine."""
