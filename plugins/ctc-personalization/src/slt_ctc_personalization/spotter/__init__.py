"""The word spotter."""
