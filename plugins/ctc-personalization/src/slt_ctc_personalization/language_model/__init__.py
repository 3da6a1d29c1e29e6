"""N-gram language models: estimated, read, and looked up."""
