"""The contextual adapter."""
