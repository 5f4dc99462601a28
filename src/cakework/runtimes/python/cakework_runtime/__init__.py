"""The adapter of functions in Python. ``docs/dev/runtimes.md`` is its protocol."""
