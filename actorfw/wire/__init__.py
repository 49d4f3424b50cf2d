"""Floor 1: bytes to frames and values to bytes. Knows values only."""
