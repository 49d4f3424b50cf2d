"""`actorfw demo`, the main job: count words and build an index on a cluster of this machine, and lose a peer.

corpus   the files, and counting them: in one process, or as tasks
job      the same by map tasks and reducing actors, while a peer is killed
report   what must hold of the outcome, and how it is shown
"""

from actorfw.demo.report import main

__all__ = ["main"]
