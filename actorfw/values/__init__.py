"""Floor 0: plain values (ids, errors, configuration). Imports the standard library only."""

__version__ = "0.1.0"
"""Of the whole package."""
