"""Runs the promises for plugins without test files: `pytest --pyargs sltcore.testing.conformance --slt-plugin NAME`."""
