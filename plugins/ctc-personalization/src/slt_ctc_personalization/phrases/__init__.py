"""Lists of phrases: spelled, checked, and compiled."""
