"""Floor 3: a node at work. Interprets what the machines of `core` decide."""
