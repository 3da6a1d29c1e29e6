"""A language model that can write nothing but queries over one schema."""
