"""actorfw."""
