"""Floor 4: what a user types."""
