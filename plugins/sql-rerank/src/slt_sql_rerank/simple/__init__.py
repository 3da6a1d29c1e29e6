"""Rerankers that every claim must beat, and two controls."""
