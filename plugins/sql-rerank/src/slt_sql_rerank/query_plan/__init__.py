"""Which clauses a question needs, by a model that sees the question and the schema and no candidate."""
