"""Floor 0: plain values (ids, errors, configuration). Imports the standard library only."""
