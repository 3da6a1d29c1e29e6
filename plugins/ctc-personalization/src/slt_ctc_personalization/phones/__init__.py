"""The phone alignment network: pronunciations of any word, a phone head, and its loss."""
