"""Augmentations: of the sound (speed, volume) and of the front end's features (spec-augment)."""
