"""The worker process: what runs `def` tasks and process actors, and the zygote that it is forked from."""
