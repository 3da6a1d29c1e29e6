"""Attacks on trained models: who was in the training data, and how much epsilon a mechanism leaks at least."""
