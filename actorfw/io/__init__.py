"""Floor 2: the outside world (time, chance, sockets, processes) behind small interfaces."""
