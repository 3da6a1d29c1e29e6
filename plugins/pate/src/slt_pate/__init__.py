"""PATE for sequences: private teachers, noisy votes, an accountant that counts every release."""

__version__ = "0.1.0"
