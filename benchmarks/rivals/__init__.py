"""Other libraries beside actorfw, in environments of their own: the programs that run there need nothing of ours."""
