"""Measurements of listed words."""
