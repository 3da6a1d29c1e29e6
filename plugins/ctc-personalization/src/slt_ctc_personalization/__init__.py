"""Personalization of CTC recognisers: beam search with phrases, language models and lexicons."""

__version__ = "0.1.0"
